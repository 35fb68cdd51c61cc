// Queues: how much waits, how much runs, who serves it; and what failed last.

import { get, post } from "../api.js";
import { badge, h, link, number, table } from "../dom.js";
import { action, Fresh } from "../fresh.js";
import { lastHour } from "./hour.js";
import { taskTable } from "./tasks.js";

const LIVE = ["scheduled", "pending", "queued", "running"];
const LAST = 8; // failures

export function queues() {
  const list = new Fresh((signal) => get("v1/queues", {}, signal), ({ queues }) => drawn(queues));
  const failed = new Fresh(
    (signal) => get("v1/tasks", { state: "failed", limit: LAST }, signal),
    ({ tasks }) => taskTable(tasks, "Nothing has failed."),
  );

  function drawn(queues) {
    return table(
      [
        ["Queue", (queue) => [h("strong", {}, queue.name), queue.paused && badge("paused")]],
        ...LIVE.map((state) => [state, (queue) => count(queue, state), "number"]),
        ["Slots in use", slots],
        ["Workers", (queue) => number(queue.workers), "number"],
        ["Limits", (queue) => limits(queue.limits)],
        ["", pauseOrResume, "actions"],
      ],
      queues,
      ["No queue has tasks or workers yet. Start a worker: ", h("code", {}, "tacoq worker module:worker"), "."],
    );
  }

  function pauseOrResume(queue) {
    const path = `v1/queues/${encodeURIComponent(queue.name)}`;
    const verb = queue.paused ? "Resume" : "Pause";
    return action(`toggle-${queue.name}`, verb, () => post(`${path}/${verb.toLowerCase()}`), {
      of: `queue ${queue.name}`, then: list.again,
    });
  }

  return [
    h("h1", {}, "Queues"), list.element,
    h("h2", {}, "Ended in the last hour"), lastHour(),
    h("h2", {}, "Failed last"), failed.element,
  ];
}

function count(queue, state) {
  const query = new URLSearchParams({ queue: queue.name, state });
  return queue[state] === 0 ? h("span", { class: "none" }, "0") : link(`/tasks?${query}`, number(queue[state]));
}

function slots(queue) {
  const used = Math.min(queue.queued + queue.running, queue.slots);
  if (queue.slots === 0) return h("span", { class: "none" }, "none");
  const meter = h("meter", { max: queue.slots, value: used, "aria-label": "Slots in use" });
  return [meter, ` ${number(used)} of ${number(queue.slots)}`];
}

/** Limits of a queue or a kind, in words. */
export function limits({ concurrency, rate, weights, max_per_key, rate_per_key }) {
  const told = [
    concurrency && `${number(concurrency)} at once`,
    rate,
    max_per_key && `${number(max_per_key)} a key`,
    rate_per_key && `${rate_per_key} a key`,
    ...Object.entries(weights ?? {}).map(([key, weight]) => `${key} × ${weight}`),
  ];
  return told.filter(Boolean).join(", ");
}
