// The HTTP API, as any client asks it. With a key, the key is asked for once and kept while the tab is open.

import { askForKey } from "./dialogs.js";

const ROOT = new URL("../", document.baseURI); // the manager, also below the path of a proxy
const KEY = `tacoq key of ${ROOT.pathname}`; // of this one: others may be below other paths of the host
const PATIENCE = 20_000; // ms, for what only reads

let withoutKey = false; // whoever looks at it gave none

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
    const key = sessionStorage.getItem(KEY);
    const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const request = { method, headers, body: body && JSON.stringify(body), signal: patient(method, signal) };
    const { answer, said } = await answered(url, request, signal);
    if (answer.status === 401 && answer.headers.get("WWW-Authenticate") === "Bearer") {
      if (sessionStorage.getItem(KEY) === key) await getKey(key !== null);
      continue;
    }
    if (!answer.ok) throw new ApiError(answer.status, detailOf(answer, said));
    return said;
  }
}

/** The same, read as JSON; null when it is empty. */
export async function ask(path, options) {
  const said = await text(path, options);
  try {
    return said === "" ? null : JSON.parse(said);
  } catch {
    throw new ApiError(0, "what answered is not the manager");
  }
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

async function answered(url, request, signal) {
  try {
    const answer = await fetch(url, request);
    return { answer, said: await answer.text() };
  } catch (error) {
    if (signal?.aborted) throw error;
    const late = error.name === "TimeoutError";
    throw new ApiError(0, late ? "the manager does not answer" : "the manager cannot be reached");
  }
}

function patient(method, signal) {
  if (method !== "GET") return signal;
  const limit = AbortSignal.timeout(PATIENCE);
  return signal ? AbortSignal.any([signal, limit]) : limit;
}

async function getKey(wasRefused) {
  const key = withoutKey ? null : await askForKey(wasRefused);
  if (key === null) {
    withoutKey = true;
    throw new ApiError(401, "this manager wants a key: reload the page to be asked for it again");
  }
  sessionStorage.setItem(KEY, key);
}

function detailOf(answer, said) {
  const fallback = `${answer.status} ${answer.statusText}`; // of somebody in between
  try {
    return JSON.parse(said).detail ?? fallback;
  } catch {
    return fallback;
  }
}
