// Tasks: found by what they are, newest first; those that were found, cancelled or retried together.

import { ApiError, get, post } from "../api.js";
import { confirmed } from "../dialogs.js";
import { h, link, many, moment, number, seconds, since, stateOf, table, taskLink } from "../dom.js";
import { action, Fresh, say } from "../fresh.js";

const STATES = ["scheduled", "pending", "queued", "running", "completed", "failed", "cancelled", "expired"];
const FIELDS = { kind: "Kind", queue: "Queue", fairness_key: "Fairness key", error: "Text in the error" };
const MOMENTS = { created_after: "Accepted after", created_before: "Accepted before" };
const PAGE = 50;
const BULK = {
  cancel: { verb: "Cancel", of: STATES.slice(0, 4), done: "cancelled, or their workers asked to stop them" },
  retry: { verb: "Retry", of: ["failed", "cancelled", "expired"], done: "published once more" },
};

export function tasks({ query }) {
  const filter = filterOf(query);
  const cursor = query.get("cursor") ?? "";
  const page = new Fresh(
    (signal) => get("v1/tasks", { ...filter, cursor, limit: PAGE }, signal),
    ({ tasks, next }) => [
      taskTable(tasks, "No task is like that."),
      h("p", { class: "pages" },
        cursor !== "" && link(`/tasks?${withCursor("")}`, "Newest"),
        next && link(`/tasks?${withCursor(next)}`, "Older")),
    ],
  );

  function withCursor(cursor) {
    const other = new URLSearchParams(query);
    other.delete("cursor");
    if (cursor !== "") other.set("cursor", cursor);
    return other;
  }

  return [h("h1", {}, "Tasks"), form(filter), bulk(filter, page.again), page.element];
}

/** Tasks, a line each. */
export function taskTable(tasks, empty) {
  return table(
    [
      ["State", stateWords],
      ["Kind", (task) => task.kind],
      ["Queue", (task) => task.queue],
      ["Task", (task) => taskLink(task.id)],
      ["Accepted", (task) => moment(task.created_at)],
      ["Ran", ran, "number"],
      ["Error", errorLine, "long"],
    ],
    tasks,
    empty,
  );
}

function errorLine(task) {
  return task.error && h("span", { class: "error", title: errorWords(task) }, errorWords(task));
}

export const errorWords = ({ error }) => `${error.type}: ${error.message}`;

export function stateWords({ state, cancel_requested }) {
  return [stateOf(state), cancel_requested && BULK.cancel.of.includes(state) && " (to be cancelled)"];
}

/** How long its last run took, or has gone on. */
export function ran({ started_at, finished_at, state }) {
  if (started_at && finished_at) return seconds((new Date(finished_at) - new Date(started_at)) / 1000);
  return started_at && state === "running" ? since(started_at) : "";
}

function filterOf(query) {
  const filter = { state: query.getAll("state") };
  for (const name of [...Object.keys(FIELDS), ...Object.keys(MOMENTS)]) filter[name] = query.get(name) ?? "";
  return filter;
}

function form(filter) {
  const input = (id, given) => h("input", { id: `filter-${id}`, name: id, ...given });
  const field = ([name, label]) => h("label", {}, label, input(name, { value: filter[name], spellcheck: "false" }));
  const date = ([name, label]) =>
    h("label", {}, label, input(name, { type: "datetime-local", step: 1, value: local(filter[name]) }));
  const state = (name) => {
    const box = { type: "checkbox", name: "state", value: name, checked: filter.state.includes(name) };
    return h("label", { class: "choice" }, input(name, box), stateOf(name));
  };
  return h("form", { class: "filter", onsubmit: find, onchange: find, role: "search" },
    h("fieldset", {}, h("legend", {}, "State"), STATES.map(state)),
    Object.entries(FIELDS).map(field), Object.entries(MOMENTS).map(date),
    h("button", {}, "Find"));
}

function find(event) {
  event.preventDefault();
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(event.currentTarget)) {
    const words = value.trim();
    if (words !== "") query.append(name, name in MOMENTS ? new Date(words).toISOString() : words);
  }
  location.hash = `/tasks?${query}`;
}

/** A moment as the clock on the wall has it, which is what the field takes. */
function local(moment) {
  const at = new Date(moment);
  return Number.isNaN(at.getTime()) ? "" : new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function bulk(filter, then) {
  const given = Object.fromEntries(Object.entries(filter).filter(([, value]) => value.length > 0));
  if (Object.keys(given).length === 0) return "";
  return h("p", { class: "actions" }, Object.keys(BULK).map((what) => {
    const state = BULK[what].of.filter((each) => filter.state.length === 0 || filter.state.includes(each));
    const meant = { ...given, state };
    const act = (signal) => forAll(what, meant, signal);
    const button = () => action(`${what}-all`, `${BULK[what].verb} all of these…`, act, { told: String, then });
    return state.length > 0 && [button(), " "];
  }));
}

/** Count first, ask, then do it in steps; return what is to be said of it. */
async function forAll(what, filter, signal) {
  const { verb, done } = BULK[what];
  const path = `v1/tasks/${what}`;
  const { count, more, as_of } = await post(path, { filter });
  if (count === 0) return `There is nothing to ${what} among these.`;
  if (more) return `These are more than ${many(count, "task")}: narrow them by when they were accepted.`;
  const question = `${verb} ${many(count, "task")}: ${inWords(filter)}?`;
  if (signal.aborted || !(await confirmed(question, `${verb} them`, signal))) return "Nothing was done.";
  let [sum, after] = [0];
  window.addEventListener("beforeunload", stay);
  try {
    do {
      const step = await post(path, { filter, most: count, as_of, after });
      sum += step.done + (step.requested ?? 0);
      after = step.next;
      if (after && !signal.aborted) say(`${number(sum)} of ${number(count)}…`);
    } while (after);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    throw new ApiError(error.status, `${error.message} (${number(sum)} of ${number(count)} were done)`);
  } finally {
    window.removeEventListener("beforeunload", stay);
  }
  return `${many(sum, "task")} ${sum === 1 ? "was" : "were"} ${done}.`;
}

function inWords({ state, ...fields }) {
  const names = { ...FIELDS, ...MOMENTS };
  const given = Object.entries(fields).map(([name, value]) => `${names[name].toLowerCase()} ${value}`);
  return [state.join(" or "), ...given].join(", ");
}

const stay = (event) => event.preventDefault(); // it would be left half done
