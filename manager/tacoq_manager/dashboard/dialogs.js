// Questions to whoever looks at the page.

import { h } from "./dom.js";

let keyAsked = null;

/** Ask before something is done; return whether it may be. It may not when `signal` ends the page before. */
export function confirmed(question, verb, signal) {
  return opened(question, signal,
    h("menu", {},
      h("button", { value: "", autofocus: true }, "Back"),
      h("button", { value: "yes", class: "strong" }, verb)));
}

/** Ask for the API key; null: none was given. All who ask at once share the question. */
export function askForKey(wasRefused) {
  keyAsked ??= keyFrom(wasRefused).finally(() => (keyAsked = null));
  return keyAsked;
}

async function keyFrom(wasRefused) {
  const input = h("input", {
    type: "password", name: "key", autocomplete: "current-password", autofocus: true, required: true,
    pattern: "[ -~]+", title: "ASCII, as a header can carry it",
  });
  const given = await opened(
    wasRefused ? "That is not this manager’s key." : "This manager wants a key.", undefined,
    h("label", {}, "API key (TACOQ_API_KEY) ", input),
    h("menu", {}, h("button", { value: "yes", class: "strong" }, "Use it")),
  );
  return given ? input.value.trim() : null;
}

function opened(question, signal, ...content) {
  const form = h("form", { method: "dialog" }, h("p", {}, question), ...content);
  const dialog = h("dialog", { "aria-label": question }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    signal?.addEventListener("abort", () => dialog.close(""), { once: true });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}
