// The HTTP API, as any client asks it. With a key, the key is asked for once and kept while the tab is open.

import { askForKey } from "./dialogs.js";

const ROOT = new URL("../", document.baseURI); // the manager, also below the path of a proxy

/** What the manager refuses, in its own words, or that it cannot be reached. */
export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Return the text of an answer. `query`: an object, lists are repeated, empty values left out. */
export async function text(path, { method = "GET", query = {}, body, signal } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    for (const each of [value].flat()) {
      if (each !== undefined && each !== "") url.searchParams.append(name, each);
    }
  }
  for (;;) {
    const key = sessionStorage.getItem("key");
    const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(url, { method, headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "the manager cannot be reached");
    }
    if (answer.status === 401) {
      sessionStorage.setItem("key", await askForKey(key !== null));
      signal?.throwIfAborted();
      continue;
    }
    const said = await answer.text();
    if (!answer.ok) throw new ApiError(answer.status, detailOf(answer, said));
    return said;
  }
}

/** The same, read as JSON; null when it is empty. */
export async function ask(path, options) {
  const said = await text(path, options);
  return said === "" ? null : JSON.parse(said);
}

export const get = (path, query, signal) => ask(path, { query, signal });
export const post = (path, body) => ask(path, { method: "POST", body });

/** JSON whose numbers are shown as they were sent: JavaScript's own have 53 bits. */
export function exactly(said) {
  return JSON.parse(said, (_, value, context) =>
    typeof value === "number" && context?.source !== undefined && String(value) !== context.source
      ? JSON.rawJSON(context.source)
      : value,
  );
}

function detailOf(answer, said) {
  try {
    return JSON.parse(said).detail;
  } catch {
    return `${answer.status} ${answer.statusText}`; // of somebody in between
  }
}
