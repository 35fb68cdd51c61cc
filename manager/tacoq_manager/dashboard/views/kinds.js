// Kinds: what workers can run, and what limits it.

import { get, post } from "../api.js";
import { h, link, moment, number, seconds, table } from "../dom.js";
import { action, Fresh } from "../fresh.js";
import { limits } from "./queues.js";

const MINUTES = 60;

export function kinds() {
  const list = new Fresh(look, drawn);

  async function look(signal) {
    const [{ kinds }, stats] = await Promise.all([
      get("v1/kinds", {}, signal),
      get("v1/stats", { minutes: MINUTES }, signal),
    ]);
    const lately = new Map(stats.kinds.map((each) => [`${each.queue} ${each.kind}`, each]));
    return kinds.map((kind) => ({ ...kind, lately: lately.get(`${kind.queue} ${kind.name}`) }));
  }

  function drawn(kinds) {
    return table(
      [
        ["Kind", (kind) => link(`/tasks?${new URLSearchParams({ kind: kind.name, queue: kind.queue })}`, kind.name)],
        ["Queue", (kind) => kind.queue],
        ["Completed", ({ lately }) => number(lately?.completed ?? 0), "number"],
        ["Failed", ({ lately }) => number(lately?.failed ?? 0), "number"],
        ["Mean run", ({ lately }) => (lately?.runs ? seconds(lately.run_seconds / lately.runs) : ""), "number"],
        ["Attempts", (kind) => number(kind.max_attempts), "number"],
        ["Timeout", (kind) => (kind.timeout ? seconds(kind.timeout) : ""), "number"],
        ["Limits", (kind) => limits(kind.limits)],
        ["Held back until", held],
        ["Payload", (kind) => parameters(kind.payload_schema), "long"],
        ["Registered", (kind) => moment(kind.seen_at)],
        ["", resume, "actions"],
      ],
      kinds,
      "No worker has registered a kind yet.",
    );
  }

  function resume(kind) {
    if (!kind.held_until && kind.held_keys.length === 0) return "";
    const path = `v1/kinds/${encodeURIComponent(kind.name)}/resume?${new URLSearchParams({ queue: kind.queue })}`;
    return action(`resume-${kind.queue}-${kind.name}`, "Resume", () => post(path), {
      of: `kind ${kind.name}`, then: list.again,
    });
  }

  return [h("h1", {}, "Kinds"), h("p", {}, "Completed, failed and mean run are of the last hour."), list.element];
}

function held({ held_until, held_keys }) {
  const keys = held_keys.map(({ fairness_key, until }) => h("div", {}, `${fairness_key}: `, moment(until)));
  return [moment(held_until), ...keys];
}

/** The fields that a payload may have: those that must be there first, the others with a question mark. */
function parameters(schema) {
  const required = schema.required ?? [];
  const names = Object.keys(schema.properties ?? {});
  return [...required, ...names.filter((name) => !required.includes(name)).map((name) => `${name}?`)].join(", ");
}
