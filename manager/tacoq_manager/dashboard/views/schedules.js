// Schedules: when each fires, and what can be done about it.

import { get, post } from "../api.js";
import { badge, h, moment, table, taskLink } from "../dom.js";
import { action, Fresh } from "../fresh.js";

export function schedules() {
  const list = new Fresh((signal) => get("v1/schedules", {}, signal), ({ schedules }) => drawn(schedules));

  function drawn(schedules) {
    return table(
      [
        ["Schedule", (schedule) => [h("strong", {}, schedule.name), schedule.paused && badge("paused")]],
        ["Kind", (schedule) => schedule.kind],
        ["Fires", (schedule) => [h("code", {}, schedule.cron), ` ${schedule.timezone}`]],
        ["Next", (schedule) => moment(schedule.next_fire_at) ?? (schedule.retired_at ? "never: its code is gone" : "")],
        ["Last", (schedule) => moment(schedule.last_fire_at) ?? ""],
        ["Last task", (schedule) => (schedule.last_task ? taskLink(schedule.last_task) : "")],
        ["Made by", (schedule) => schedule.source],
        ["", buttons, "actions"],
      ],
      schedules,
      ["None is there: ", h("code", {}, "@worker.cron"), " or ", h("code", {}, "tacoq schedules"), " makes one."],
    );
  }

  function buttons({ name, paused }) {
    const path = `v1/schedules/${encodeURIComponent(name)}`;
    const told = ({ id }) => h("span", {}, "Published: ", taskLink(id));
    const verb = paused ? "Resume" : "Pause";
    const about = { of: `schedule ${name}`, then: list.again };
    return [
      action(`run-${name}`, "Run now", () => post(`${path}/run`), { ...about, told }),
      " ",
      action(`toggle-${name}`, verb, () => post(`${path}/${verb.toLowerCase()}`), about),
    ];
  }

  return [h("h1", {}, "Schedules"), list.element];
}
