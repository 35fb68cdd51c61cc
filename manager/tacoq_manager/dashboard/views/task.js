// Task: all of one, why it is where it is, what happened to it, and what can be done about it.

import { exactly, get, post, text } from "../api.js";
import { facts, h, link, moment, seconds, stateOf, table, taskLink } from "../dom.js";
import { action, Fresh } from "../fresh.js";
import { ran } from "./tasks.js";

const FINAL = ["completed", "failed", "cancelled", "expired"];

export function task({ argument, signal }) {
  const path = `v1/tasks/${encodeURIComponent(argument)}`;
  // Each part is drawn anew when it changes, so that what is being read or copied elsewhere stays.
  const task = new Fresh((signal) => text(path, { query: { payload: "true" }, signal }), drawn, signal);
  const why = new Fresh((signal) => get(`${path}/why`, {}, signal), ({ sentence }) => h("p", {}, sentence), signal);
  const timeline = new Fresh((signal) => get(`${path}/timeline`, {}, signal), ({ events }) => happened(events), signal);

  function again() {
    for (const part of [task, why, timeline]) part.again();
  }

  function drawn(said) {
    const task = JSON.parse(said);
    const { payload, result } = exactly(said);
    return [
      h("p", { class: "actions" }, stateOf(task.state), " ", actions(task)),
      facts([
        ["Kind", link(`/tasks?${new URLSearchParams({ kind: task.kind })}`, task.kind)],
        ["Queue", link(`/tasks?${new URLSearchParams({ queue: task.queue })}`, task.queue)],
        ["Priority", task.priority ? String(task.priority) : ""],
        ["Fairness key", task.fairness_key],
        ["Failed attempts", task.attempt ? `${task.attempt}${task.max_attempts ? ` of ${task.max_attempts}` : ""}` : ""],
        ["Accepted", moment(task.created_at)],
        ["Due", task.state === "scheduled" ? moment(task.run_at) : ""],
        ["Expires", moment(task.expires_at)],
        ["Timeout", task.timeout ? seconds(task.timeout) : ""],
        ["Started", moment(task.started_at)],
        ["Ran", ran(task)],
        ["Ended", moment(task.finished_at)],
        ["Worker session", task.session && link(`/workers/${task.session}`, task.session)],
        ["Retry of", task.retry_of && taskLink(task.retry_of)],
      ]),
      task.error && [h("h2", {}, "Error"), h("pre", { class: "error" }, task.error.traceback ?? `${task.error.type}: ${task.error.message}`)],
      h("h2", {}, "Payload"), json(payload),
      task.state === "completed" && [h("h2", {}, "Result"), task.result_expired ? h("p", {}, "The result has expired.") : json(result)],
    ].flat();
  }

  function actions(task) {
    if (!FINAL.includes(task.state)) {
      const question = task.state === "running" ? "It runs: ask its worker to stop it?" : undefined;
      return action("cancel", "Cancel", () => post(`${path}/cancel`), { question, then: again });
    }
    if (task.state === "completed") return null;
    const told = ({ id }) => h("span", {}, "Published once more: ", taskLink(id));
    return action("retry", "Retry", () => post(`${path}/retry`), { told, then: again });
  }

  return [
    h("h1", {}, "Task ", h("span", { class: "id" }, argument)),
    why.element, task.element, h("h2", {}, "Timeline"), timeline.element,
  ];
}

function happened(events) {
  return table(
    [
      ["When", ({ at }) => moment(at)],
      ["", ({ at }) => `+ ${seconds((new Date(at) - new Date(events[0].at)) / 1000)}`, "number"],
      ["Event", ({ event }) => h("strong", {}, event)],
      ["Release", ({ release }) => release ?? "", "number"],
      ["Worker session", ({ session }) => (session ? link(`/workers/${session}`, session.slice(-12)) : "")],
      ["", ({ detail }) => detail ?? "", "long"],
    ],
    events,
    "",
  );
}

function json(value) {
  return h("pre", {}, value === undefined ? "" : JSON.stringify(value, null, 2));
}
