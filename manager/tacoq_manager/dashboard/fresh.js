// Pages that keep themselves up to date, and what can be done on them.

import { ApiError } from "./api.js";
import { confirmed } from "./dialogs.js";
import { showTimes } from "./dom.js";

const EVERY = 2000; // ms
const REST = 9; // times as long as an answer took: a manager that is slow to tell is asked less often
const MOST = 30_000; // ms

const troubles = new Map(); // of the parts that cannot be told, what is wrong
let page = new AbortController();

/** Another page is shown: what the one before asks and says is over. Return what ends this one. */
export function turn() {
  page.abort();
  page = new AbortController();
  troubles.clear();
  showTroubles();
  say("");
  return page.signal;
}

/** A part of a page that shows what the manager answers, and asks again while the page is looked at. */
export class Fresh {
  #load;
  #draw;
  #over;
  #quiet;
  #signal = page.signal;
  #shown = null; // what was drawn, as markup without its times
  #asked = false;
  #wake = () => {};
  #looked = Promise.withResolvers();

  /** `load(signal)` asks, `draw(data)` makes elements of the answer, `over(data)` says that it will not change.
   * A `quiet` one leaves it to others to say that nothing is there. */
  constructor(load, draw, { over = () => false, quiet = false } = {}) {
    this.#load = load;
    this.#draw = draw;
    this.#over = over;
    this.#quiet = quiet;
    this.element = document.createElement("section");
    this.again = this.again.bind(this);
    document.addEventListener("visibilitychange", this.again, { signal: this.#signal });
    this.#signal.addEventListener("abort", this.again);
    this.#run();
  }

  /** Ask now; return when that was answered. */
  again() {
    this.#asked = true;
    this.#wake();
    return this.#looked.promise;
  }

  async #run() {
    let ended = false;
    while (!this.#signal.aborted && !ended) {
      const looked = this.#looked;
      this.#looked = Promise.withResolvers();
      this.#asked = false;
      const began = performance.now();
      if (!document.hidden) ended = await this.#look();
      looked.resolve();
      const pause = Math.min(MOST, Math.max(EVERY, REST * (performance.now() - began)));
      if (this.#asked || ended || this.#signal.aborted) continue;
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, pause);
      });
    }
    this.#looked.resolve();
  }

  async #look() {
    try {
      const data = await this.#load(this.#signal);
      if (this.#signal.aborted) return true;
      trouble(this, null);
      this.#show(this.#draw(data));
      return this.#over(data);
    } catch (error) {
      if (this.#signal.aborted) return true;
      const unknown = error instanceof ApiError && error.status === 404;
      trouble(this, unknown ? null : error);
      if (unknown && !this.#quiet) this.#show(error.message);
      return false;
    }
  }

  /** Only what changed is drawn anew, and not under a finger or a selection: the next look does it then. */
  #show(content) {
    const next = document.createElement("section");
    next.append(...[content].flat(Infinity).filter(Boolean));
    const markup = next.innerHTML;
    if (markup === this.#shown || this.#isHeld()) return;
    const [focused, scrolled] = [this.#focused(), this.#wide().map((each) => each.scrollLeft)];
    showTimes(next);
    this.element.replaceChildren(...next.childNodes);
    this.#shown = markup;
    this.#wide().forEach((each, place) => (each.scrollLeft = scrolled[place] ?? 0));
    if (focused !== null) this.element.querySelector(focused)?.focus({ preventScroll: true });
  }

  #isHeld() {
    const selection = getSelection();
    const selected = !selection.isCollapsed && this.element.contains(selection.anchorNode);
    return selected || this.element.querySelector(":active") !== null;
  }

  #focused() {
    const element = document.activeElement;
    if (!this.element.contains(element)) return null;
    if (element.id !== "") return `#${CSS.escape(element.id)}`;
    return element.hasAttribute("href") ? `[href="${CSS.escape(element.getAttribute("href"))}"]` : null;
  }

  #wide() {
    return [...this.element.querySelectorAll(".wide")];
  }
}

/** A button that does something, asks `question` before if there is one, says what came of it, and looks `then`.
 * `of`: what it is for, where others do the same for something else. */
export function action(id, verb, act, { of, question, then, told = () => "" }) {
  const signal = page.signal;
  const button = document.createElement("button");
  button.id = id; // so that it keeps the focus when it is drawn anew
  button.textContent = verb;
  if (of) button.setAttribute("aria-label", `${verb} ${of}`);
  const busy = (is) => button.setAttribute("aria-disabled", is); // a disabled one would lose the focus
  button.addEventListener("click", async (event) => {
    if (event.detail > 1 || button.getAttribute("aria-disabled") === "true") return; // the second of a double click
    busy(true);
    try {
      if (question && !(await confirmed(question, verb, signal))) return;
      const done = await act(signal);
      if (!signal.aborted) say(told(done) || `${button.getAttribute("aria-label") ?? verb}: done.`);
    } catch (error) {
      if (!signal.aborted) say(error.message, "bad");
      if (!(error instanceof ApiError)) reportError(error);
    } finally {
      if (!signal.aborted) await then();
      busy(false);
    }
  });
  return button;
}

/** Say what came of an action, or how far it is. */
export function say(what, kind = "good") {
  const place = document.getElementById("told");
  place.className = kind;
  place.replaceChildren(what);
}

/** Say at the top of the page what is wrong with a part of it; null: nothing is, any more. */
function trouble(part, error) {
  if (error === null) troubles.delete(part);
  else troubles.set(part, error.message);
  showTroubles();
  if (error !== null && !(error instanceof ApiError)) reportError(error); // a mistake of ours
}

function showTroubles() {
  const place = document.getElementById("trouble");
  const [first = ""] = troubles.values();
  place.hidden = first === "";
  if (place.textContent !== first) place.textContent = first;
}
