// Workers: the sessions that live, and those that ended; one of them with what runs there.

import { get, post } from "../api.js";
import { badge, facts, h, link, moment, number, stateOf, table, taskLink } from "../dom.js";
import { action, Fresh } from "../fresh.js";

const MEGABYTE = 1 << 20;

export function workers({ query }) {
  const ended = query.get("ended") === "true";
  const list = new Fresh(
    (signal) => get("v1/workers", { ended }, signal),
    ({ workers }) =>
      table(
        [
          ["State", state],
          ["Session", (worker) => h("a", { href: `#/workers/${worker.session}`, class: "id" }, worker.session)],
          ["Queue", (worker) => worker.queue],
          ["Host", (worker) => `${worker.host} · ${worker.pid}`],
          ["Labels", labels],
          ["Slots in use", (worker) => `${number(worker.held)} of ${number(worker.slots)}`, "number"],
          ["Memory", memory, "number"],
          ["Started", (worker) => moment(worker.started_at)],
          ["", (worker) => buttons(worker, list.again), "actions"],
        ],
        workers,
        ["No worker lives. Start one: ", h("code", {}, "tacoq worker module:worker"), "."],
      ),
  );
  const other = ended ? link("/workers", "Only those that live") : link("/workers?ended=true", "Also those that ended");
  return [h("h1", {}, "Workers"), h("p", {}, other), list.element];
}

export function worker({ argument }) {
  const page = new Fresh((signal) => get(`v1/workers/${encodeURIComponent(argument)}`, {}, signal), drawn);

  function drawn(worker) {
    return [
      h("p", {}, state(worker), worker.detail ? ` ${worker.detail}` : ""),
      h("p", { class: "actions" }, buttons(worker, page.again)),
      facts([
        ["Queue", worker.queue],
        ["Host", worker.host],
        ["Process", String(worker.pid)],
        ["Labels", labels(worker)],
        ["Version", worker.version],
        ["Slots in use", `${number(worker.held)} of ${number(worker.slots)}`],
        ["Memory", memory(worker)],
        ["Started", moment(worker.started_at)],
        ["Seen", moment(worker.seen_at)],
        ["Kinds", worker.kinds.join(", ")],
      ]),
      h("h2", {}, "Runs there"),
      table(
        [
          ["Task", (run) => taskLink(run.id)],
          ["Kind", (run) => run.kind],
          ["Attempt", (run) => number(run.attempt + 1), "number"],
          ["Started", (run) => moment(run.started_at) ?? ""],
        ],
        worker.running,
        "Nothing that has run for long enough to be told of.",
      ),
    ];
  }

  return [h("h1", {}, "Worker session ", h("span", { class: "id" }, argument)), page.element];
}

function state(worker) {
  return [stateOf(worker.state), worker.loop_blocked && badge("event loop blocked")];
}

function buttons({ session, state }, then) {
  const path = `v1/workers/${session}`;
  const about = { of: `session ${session}`, then };
  if (state === "draining") return action(`toggle-${session}`, "Resume", () => post(`${path}/resume`), about);
  if (state !== "live") return "";
  return [
    action(`toggle-${session}`, "Drain", () => post(`${path}/drain`, { leave: false }), about),
    " ",
    action(`end-${session}`, "End", () => post(`${path}/drain`, { leave: true }), {
      question: "Have this session end after its runs? Its supervisor may start another.",
      ...about,
    }),
  ];
}

const labels = (worker) => Object.entries(worker.labels).map(([name, value]) => `${name}=${value}`).join(", ");
const memory = (worker) => (worker.rss_bytes ? `${number(Math.round(worker.rss_bytes / MEGABYTE))} MB` : "");
