// Elements out of data. Text is set as text: nothing that a task carries becomes markup.

const NOTHING = [null, undefined, false];
const NUMBER = new Intl.NumberFormat();
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** An element. Attributes that are functions hear events (`onclick`); false, null and undefined are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => !NOTHING.includes(child)));
  return element;
}

/** A table; `columns` are [heading, cell of a row, class], and of an empty one nothing is shown but `empty`. */
export function table(columns, rows, empty) {
  if (rows.length === 0) return h("p", { class: "empty" }, ...[empty].flat());
  return h("div", { class: "wide" }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map(([heading, , kind]) => h("th", { scope: "col", class: kind }, heading)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => filled(cell(row), kind))))),
  ));
}

function filled(content, kind) {
  return h("td", { class: kind, title: typeof content === "string" && content.length > 30 ? content : null }, content);
}

/** Names and values, one below the other; what has no value is not there. */
export function facts(pairs) {
  const told = pairs.filter(([, value]) => ![...NOTHING, ""].includes(value));
  return h("dl", {}, told.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

export const link = (path, ...children) => h("a", { href: `#${path}` }, ...children);
export const taskLink = (id) => h("a", { href: `#/tasks/${id}`, class: "id" }, id);
export const badge = (words) => h("span", { class: "badge" }, words);
export const stateOf = (state) => h("span", { class: `state ${state}` }, state);
export const number = (value) => NUMBER.format(value);
export const many = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

/** How long ago, or until when; the moment itself when pointed at. `showTimes` writes it, again and again. */
export function moment(at) {
  return at ? h("time", { datetime: at, title: MOMENT.format(new Date(at)) }) : null;
}

/** How long it has been going on, as `showTimes` writes it. */
export const since = (at) => h("time", { datetime: at, class: "since" });

export function showTimes(place = document) {
  for (const each of place.querySelectorAll("time")) {
    const past = (Date.now() - new Date(each.dateTime)) / 1000;
    const words = each.className === "since" ? seconds(Math.max(past, 0)) : ago(past);
    if (each.textContent !== words) each.textContent = words;
  }
}

/** A length of time, as exactly as it is of use. */
export function seconds(value) {
  if (value > 0 && value < 0.001) return "< 1 ms";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  const [unit, size] = UNITS.find(([, size]) => value >= size);
  const rest = value % size;
  return `${Math.floor(value / size)} ${unit}${rest >= 1 ? ` ${rough(rest)}` : ""}`;
}

function ago(past) {
  if (Math.abs(past) < 1) return "now";
  return past > 0 ? `${rough(past)} ago` : `in ${rough(-past)}`;
}

function rough(value) {
  const [unit, size] = UNITS.find(([, size]) => value >= size);
  return `${Math.floor(value / size)} ${unit}`;
}
