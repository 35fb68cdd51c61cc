// Questions to whoever looks at the page.

import { h } from "./dom.js";

let keyAsked = null;

/** Ask before something is done; return whether it may be. */
export function confirmed(question, verb) {
  return opened(
    h("p", {}, question),
    h("menu", {},
      h("button", { value: "", autofocus: true }, "Back"),
      h("button", { value: "yes", class: "strong" }, verb)),
  ).then((answer) => answer === "yes");
}

/** Ask for the API key until one is given; all who ask at once share the question. */
export function askForKey(wasRefused) {
  keyAsked ??= keyFrom(wasRefused).finally(() => (keyAsked = null));
  return keyAsked;
}

async function keyFrom(wasRefused) {
  for (;;) {
    const input = h("input", { type: "password", name: "key", autocomplete: "current-password", autofocus: true });
    await opened(
      h("p", {}, wasRefused ? "That is not this manager’s key." : "This manager wants a key."),
      h("label", {}, "API key (TACOQ_API_KEY) ", input),
      h("menu", {}, h("button", { value: "yes", class: "strong" }, "Use it")),
    );
    if (/^[\x21-\x7e]+$/.test(input.value.trim())) return input.value.trim();
  }
}

function opened(...content) {
  const dialog = h("dialog", {}, h("form", { method: "dialog" }, ...content));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}
