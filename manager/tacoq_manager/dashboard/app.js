// The address in, the page it names out.

import { keepTimes } from "./dom.js";
import { clear } from "./fresh.js";
import { kinds } from "./views/kinds.js";
import { queues } from "./views/queues.js";
import { schedules } from "./views/schedules.js";
import { task } from "./views/task.js";
import { tasks } from "./views/tasks.js";
import { worker, workers } from "./views/workers.js";

// Each returns elements, and asks the manager until `signal` says that another page is shown.
const PAGES = [
  [/^\/queues$/, "Queues", queues],
  [/^\/tasks$/, "Tasks", tasks],
  [/^\/tasks\/([^/]+)$/, "Task", task],
  [/^\/workers$/, "Workers", workers],
  [/^\/workers\/([^/]+)$/, "Worker", worker],
  [/^\/kinds$/, "Kinds", kinds],
  [/^\/schedules$/, "Schedules", schedules],
];

let shown = new AbortController();

function show() {
  const [path, query] = (location.hash.slice(1) || "/queues").split("?");
  const found = PAGES.map(([pattern, title, page]) => [path.match(pattern), title, page]).find(([match]) => match);
  if (found === undefined) {
    location.replace("#/queues");
    return;
  }
  const [match, title, page] = found;
  shown.abort();
  shown = new AbortController();
  clear();
  document.title = `${title} · TacoQ`;
  for (const each of document.querySelectorAll("nav a")) {
    const here = path.startsWith(each.getAttribute("href").slice(1));
    each.toggleAttribute("aria-current", here);
  }
  const argument = match[1] === undefined ? undefined : decodeURIComponent(match[1]);
  const content = page({ argument, query: new URLSearchParams(query), signal: shown.signal });
  const focused = document.activeElement?.id;
  document.getElementById("view").replaceChildren(...content);
  if (focused) document.getElementById(focused)?.focus(); // as of a filter that is being set
}

document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = new FormData(event.target).get("id").trim();
  if (id !== "") location.hash = `/tasks/${encodeURIComponent(id)}`;
  event.target.reset();
});
window.addEventListener("hashchange", show);
keepTimes();
show();
