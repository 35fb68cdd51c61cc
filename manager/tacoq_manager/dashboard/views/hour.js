// The last hour: tasks that ended, minute by minute.

import { get } from "../api.js";
import { h, number, seconds } from "../dom.js";
import { Fresh } from "../fresh.js";

const MINUTES = 60;
const MINUTE = 60_000; // ms
const HEIGHT = 60;
const STATES = ["completed", "failed", "cancelled", "expired"]; // from below
const SVG = "http://www.w3.org/2000/svg";

/** A chart of them. */
export function lastHour() {
  return new Fresh((signal) => get("v1/stats", { minutes: MINUTES }, signal), drawn).element;
}

function drawn({ this_minute, minutes }) {
  const end = new Date(this_minute).getTime();
  const sums = Object.fromEntries(STATES.map((state) => [state, minutes.reduce((sum, each) => sum + each[state], 0)]));
  const runs = minutes.reduce((sum, each) => sum + each.runs, 0);
  const ran = minutes.reduce((sum, each) => sum + each.run_seconds, 0);
  const had = STATES.filter((state) => sums[state] > 0);
  if (had.length === 0) return h("p", { class: "empty" }, "Nothing has ended in the last hour.");
  const most = Math.max(...minutes.map((each) => STATES.reduce((sum, state) => sum + each[state], 0)));
  const box = { viewBox: `0 0 ${MINUTES} ${HEIGHT}`, preserveAspectRatio: "none" };
  const chart = svg("svg", { ...box, class: "chart", "aria-hidden": "true" });
  for (const each of minutes) {
    const place = MINUTES - 1 - (end - new Date(each.minute)) / MINUTE;
    const minute = svg("g", {});
    minute.append(svg("title", {}, `${new Date(each.minute).toLocaleTimeString()}: ${told(each)}`));
    let top = HEIGHT;
    for (const state of STATES.filter((state) => each[state] > 0)) {
      const height = (each[state] / most) * HEIGHT;
      top -= height;
      minute.append(svg("rect", { class: `state ${state}`, x: place + 0.1, y: top, width: 0.8, height }));
    }
    chart.append(minute);
  }
  return [
    chart,
    h("p", { class: "sums" },
      had.map((state) => h("span", { class: `state ${state}` }, `${number(sums[state])} ${state}`)),
      h("span", {}, `up to ${number(most)} a minute`),
      runs > 0 && h("span", {}, `mean run ${seconds(ran / runs)}`)),
  ];
}

function told(minute) {
  return STATES.filter((state) => minute[state] > 0).map((state) => `${number(minute[state])} ${state}`).join(", ");
}

function svg(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(text);
  return element;
}
