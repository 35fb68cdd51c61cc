// Task: all of one, why it is where it is, what happened to it, and what can be done about it.

import { exactly, get, post, text } from "../api.js";
import { facts, h, link, moment, seconds, table, taskLink } from "../dom.js";
import { action, Fresh } from "../fresh.js";
import { errorWords, ran, stateWords } from "./tasks.js";

const FINAL = ["completed", "failed", "cancelled", "expired"];
const MOST = 200_000; // characters of a payload or a result that are shown
const INDENTED = { characters: 50_000, depth: 100 }; // what is more would be mostly spaces

export function task({ argument }) {
  const path = `v1/tasks/${encodeURIComponent(argument)}`;
  // Parts by themselves: what is being read in one stays while another changes, and a payload is asked for once.
  const about = new Fresh((signal) => text(path, { signal }), drawn, { over: (said) => isFinal(JSON.parse(said)) });
  const why = new Fresh((signal) => get(`${path}/why`, {}, signal), ({ sentence }) => h("p", {}, sentence), {
    over: ({ reason }) => FINAL.includes(reason), quiet: true,
  });
  const payload = new Fresh(
    (signal) => text(path, { query: { payload: "true" }, signal }),
    (said) => [h("h2", {}, "Payload"), json(exactly(said).payload)],
    { over: () => true, quiet: true },
  );
  const timeline = new Fresh(
    (signal) => get(`${path}/timeline`, {}, signal),
    ({ events }) => [h("h2", {}, "Timeline"), happened(events)],
    { over: ({ events }) => FINAL.includes(events.at(-1)?.event), quiet: true },
  );

  function drawn(said) {
    const task = JSON.parse(said);
    return [
      h("p", { class: "actions" }, stateWords(task), " ", actions(task)),
      facts([
        ["Kind", link(`/tasks?${new URLSearchParams({ kind: task.kind })}`, task.kind)],
        ["Queue", link(`/tasks?${new URLSearchParams({ queue: task.queue })}`, task.queue)],
        ["Priority", task.priority ? String(task.priority) : ""],
        ["Fairness key", task.fairness_key],
        ["Failed attempts", task.attempt > 0 && [task.attempt, task.max_attempts].filter(Boolean).join(" of ")],
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
      task.error && [h("h2", {}, "Error"), h("pre", { class: "error" }, task.error.traceback ?? errorWords(task))],
      task.state === "completed" && [
        h("h2", {}, "Result"),
        task.result_expired ? h("p", {}, "The result has expired.") : json(exactly(said).result),
      ],
    ];
  }

  function actions(task) {
    if (!isFinal(task)) {
      const question = task.state === "running" ? "It runs: ask its worker to stop it?" : "Cancel this task?";
      const then = () => Promise.all([about, why, timeline].map((part) => part.again()));
      if (task.cancel_requested) return null;
      return action("cancel", "Cancel", () => post(`${path}/cancel`), { question, then });
    }
    if (task.state === "completed") return null;
    return action("retry", "Retry", () => post(`${path}/retry`), { told: retried, then: about.again });
  }

  return [
    h("h1", {}, "Task ", h("span", { class: "id" }, argument)),
    why.element, about.element, payload.element, timeline.element,
  ];
}

const isFinal = ({ state }) => FINAL.includes(state);

function retried({ id, duplicate }) {
  return h("span", {}, duplicate ? "A live task has its unique key: " : "Published once more: ", taskLink(id));
}

function happened(events) {
  return table(
    [
      ["When", ({ at }) => moment(at)],
      ["", ({ at }) => `+ ${seconds((new Date(at) - new Date(events[0].at)) / 1000)}`, "number"],
      ["Event", ({ event }) => h("strong", {}, event)],
      ["Release", ({ release }) => release ?? "", "number"],
      ["Worker session", ({ session }) => (session ? link(`/workers/${session}`, session.slice(-12)) : "")],
      ["", ({ detail }) => detail ?? "", "whole"],
    ],
    events,
    "",
  );
}

function json(value) {
  const compact = value === undefined ? "" : JSON.stringify(value);
  const indented = compact.length <= INDENTED.characters && depthOf(compact) <= INDENTED.depth;
  const shown = h("pre", {}, indented && compact !== "" ? JSON.stringify(value, null, 2) : compact.slice(0, MOST));
  if (compact.length <= MOST) return shown;
  return [shown, h("p", {}, "This is its beginning; ", h("code", {}, "tacoq show ID --json"), " has all of it.")];
}

/** How deep it is nested, or more: brackets in strings count. */
function depthOf(compact) {
  let [depth, most] = [0, 0];
  for (const each of compact) {
    if (each === "[" || each === "{") most = Math.max(most, ++depth);
    else if (each === "]" || each === "}") depth--;
  }
  return most;
}
