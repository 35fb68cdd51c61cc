// Pages that keep themselves up to date, and what can be done on them.

import { ApiError } from "./api.js";
import { confirmed } from "./dialogs.js";

const EVERY = 2000; // ms
const REST = 9; // times as long as an answer took: a manager that is slow to tell is asked less often

const troubles = new Map(); // of the parts that cannot be told, what is wrong

/** A part of a page that shows what the manager answers, and asks again while the page is looked at. */
export class Fresh {
  #load;
  #draw;
  #signal;
  #shown = null;
  #asked = false;
  #wake = () => {};

  /** `load(signal)` asks, `draw(data)` makes elements of the answer; it ends with `signal`. */
  constructor(load, draw, signal) {
    this.#load = load;
    this.#draw = draw;
    this.#signal = signal;
    this.element = document.createElement("section");
    this.again = this.again.bind(this);
    document.addEventListener("visibilitychange", this.again, { signal });
    signal.addEventListener("abort", this.again);
    this.#run();
  }

  /** Ask now. */
  again() {
    this.#asked = true;
    this.#wake();
  }

  async #run() {
    while (!this.#signal.aborted) {
      this.#asked = false;
      const began = performance.now();
      if (!document.hidden) await this.#look();
      const pause = Math.max(EVERY, REST * (performance.now() - began));
      if (this.#asked || this.#signal.aborted) continue;
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, pause);
      });
    }
  }

  async #look() {
    try {
      const data = await this.#load(this.#signal);
      if (this.#signal.aborted) return;
      trouble(this, null);
      const told = JSON.stringify(data);
      if (told !== this.#shown) this.#show(data, told);
    } catch (error) {
      if (this.#signal.aborted) return;
      const unknown = error instanceof ApiError && error.status === 404;
      trouble(this, unknown ? null : error);
      if (unknown) this.#show(null, "", error.message);
    }
  }

  #show(data, told, instead) {
    const focused = this.element.contains(document.activeElement) ? document.activeElement.id : "";
    const content = instead === undefined ? this.#draw(data) : [instead];
    this.element.replaceChildren(...[content].flat().filter(Boolean));
    this.#shown = told;
    if (focused !== "") document.getElementById(focused)?.focus();
  }
}

/** A button that does something, asks `question` before if there is one, and shows what came of it by `then`. */
export function action(id, verb, act, { question, then, told }) {
  const button = document.createElement("button");
  button.id = id; // so that it keeps the focus when it is drawn anew
  button.textContent = verb;
  button.addEventListener("click", async () => {
    if (question && !(await confirmed(question, verb))) return;
    button.disabled = true;
    try {
      const done = await act();
      say(typeof told === "function" ? told(done) : "");
    } catch (error) {
      say(error.message, "bad");
      if (!(error instanceof ApiError)) throw error;
    }
    button.disabled = false;
    then();
  });
  return button;
}

/** Forget what was said: another page is shown. */
export function clear() {
  troubles.clear();
  show();
  say("");
}

/** Say at the top of the page what is wrong with a part of it; null: nothing is, any more. */
function trouble(part, error) {
  if (error === null) troubles.delete(part);
  else troubles.set(part, error.message);
  show();
  if (error !== null && !(error instanceof ApiError)) throw error; // a mistake of ours
}

function show() {
  const place = document.getElementById("trouble");
  const [first = ""] = troubles.values();
  place.hidden = first === "";
  place.textContent = first;
}

/** Say what came of an action. */
function say(what, kind = "good") {
  const place = document.getElementById("told");
  place.className = kind;
  place.replaceChildren(what);
}
