// The address in, the page it names out.

import { showTimes } from "./dom.js";
import { turn } from "./fresh.js";
import { kinds } from "./views/kinds.js";
import { queues } from "./views/queues.js";
import { schedules } from "./views/schedules.js";
import { task } from "./views/task.js";
import { tasks } from "./views/tasks.js";
import { worker, workers } from "./views/workers.js";

// Each returns elements; what is fresh in them asks the manager until another page is shown.
const PAGES = [
  [/^\/queues$/, "Queues", queues],
  [/^\/tasks$/, "Tasks", tasks],
  [/^\/tasks\/([^/]+)$/, "Task", task],
  [/^\/workers$/, "Workers", workers],
  [/^\/workers\/([^/]+)$/, "Worker", worker],
  [/^\/kinds$/, "Kinds", kinds],
  [/^\/schedules$/, "Schedules", schedules],
];

function show() {
  const [path, query] = (location.hash.slice(1) || "/queues").split("?");
  const found = PAGES.map(([pattern, title, page]) => [path.match(pattern), title, page]).find(([match]) => match);
  const argument = decoded(found?.[0][1]);
  if (found === undefined || argument === null) {
    location.replace("#/queues");
    return;
  }
  const [, title, page] = found;
  const before = document.activeElement?.id;
  turn();
  document.title = `${title}${argument === undefined ? "" : ` ${argument.slice(-12)}`} · TacoQ`;
  for (const each of document.querySelectorAll("nav a")) {
    if (path.startsWith(each.getAttribute("href").slice(1))) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  document.getElementById("view").replaceChildren(...page({ argument, query: new URLSearchParams(query) }));
  // A filter that is being set keeps the focus; else it is where reading begins.
  const again = before && document.getElementById("view").querySelector(`#${CSS.escape(before)}`);
  const heading = document.querySelector("main h1");
  heading.tabIndex = -1;
  (again || heading).focus();
}

function decoded(argument) {
  try {
    return argument === undefined ? undefined : decodeURIComponent(argument);
  } catch {
    return null;
  }
}

document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = new FormData(event.target).get("id").trim();
  if (id !== "") location.hash = `/tasks/${encodeURIComponent(id)}`;
  event.target.reset();
});
window.addEventListener("hashchange", show);
setInterval(showTimes, 1000);
show();
