// Tasks: found by what they are, newest first; those that were found, cancelled or retried together.

import { get, post } from "../api.js";
import { confirmed } from "../dialogs.js";
import { h, link, moment, number, seconds, stateOf, table, taskLink } from "../dom.js";
import { action, Fresh } from "../fresh.js";

const STATES = ["scheduled", "pending", "queued", "running", "completed", "failed", "cancelled", "expired"];
const ENDED_UNDONE = ["failed", "cancelled", "expired"];
const PAGE = 50;
const VERBS = {
  cancel: { verb: "Cancel", done: "cancelled, or their workers asked to stop them" },
  retry: { verb: "Retry", done: "published once more" },
};

export function tasks({ query, signal }) {
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
    signal,
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
      ["State", (task) => [stateOf(task.state), task.cancel_requested && task.state !== "cancelled" ? " (to be cancelled)" : ""]],
      ["Kind", (task) => task.kind],
      ["Queue", (task) => task.queue],
      ["Task", (task) => taskLink(task.id)],
      ["Accepted", (task) => moment(task.created_at)],
      ["Ran", ran, "number"],
      ["Error", (task) => (task.error ? h("span", { class: "error", title: task.error.message }, `${task.error.type}: ${task.error.message}`) : ""), "long"],
    ],
    tasks,
    empty,
  );
}

/** How long its last run took, or takes. */
export function ran({ started_at, finished_at, state }) {
  if (!started_at || !(finished_at || state === "running")) return "";
  return seconds(((finished_at ? new Date(finished_at) : Date.now()) - new Date(started_at)) / 1000);
}

function filterOf(query) {
  const filter = { state: query.getAll("state") };
  for (const name of ["kind", "queue", "fairness_key", "error"]) filter[name] = query.get(name) ?? "";
  return filter;
}

function form(filter) {
  const field = (name, label) => h("label", {}, label, h("input", { id: `filter-${name}`, name, value: filter[name], spellcheck: "false" }));
  const state = (name) =>
    h("label", { class: "choice" }, h("input", { id: `filter-${name}`, type: "checkbox", name: "state", value: name, checked: filter.state.includes(name) }), stateOf(name));
  return h("form", { class: "filter", onsubmit: find, onchange: find, role: "search" },
    h("fieldset", {}, h("legend", {}, "State"), STATES.map(state)),
    field("kind", "Kind"), field("queue", "Queue"), field("fairness_key", "Fairness key"), field("error", "Text in the error"),
    h("button", {}, "Find"));
}

function find(event) {
  event.preventDefault();
  const given = [...new FormData(event.currentTarget)].map(([name, value]) => [name, value.trim()]);
  location.hash = `/tasks?${new URLSearchParams(given.filter(([, value]) => value !== ""))}`;
}

function bulk(filter, then) {
  const given = Object.fromEntries(Object.entries(filter).filter(([, value]) => value.length > 0));
  if (Object.keys(given).length === 0) return "";
  const live = filter.state.length === 0 || filter.state.some((state) => STATES.indexOf(state) < STATES.indexOf("completed"));
  const retried = filter.state.length === 0 || filter.state.some((state) => ENDED_UNDONE.includes(state));
  return h("p", { class: "actions" },
    live && action("cancel-all", "Cancel all of these…", () => forAll("cancel", given), { told: String, then }),
    retried && action("retry-all", "Retry all of these…", () => forAll("retry", given), { told: String, then }));
}

/** Count first, ask, then do it in steps; return what is to be said of it. */
async function forAll(what, filter) {
  const path = `v1/tasks/${what}`;
  const { count, more, as_of } = await post(path, { filter });
  if (count === 0) return `There is nothing to ${what} among these.`;
  if (more) return `These are more than ${number(count)} tasks: narrow them first.`;
  if (!(await confirmed(`${VERBS[what].verb} ${number(count)} tasks?`, `${VERBS[what].verb} them`))) return "";
  let sum = 0;
  let after;
  do {
    const step = await post(path, { filter, most: count, as_of, after });
    sum += step.done + (step.requested ?? 0);
    after = step.next;
  } while (after);
  return `${number(sum)} tasks were ${VERBS[what].done}.`;
}
