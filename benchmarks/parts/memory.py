"""Memory: what TacoQ's processes hold after 10,000 tasks, and after many more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.plan import WARM_TASKS, Plan
from benchmarks.servers import Servers
from benchmarks.system import system

STEP = 10_000


def run(servers: Servers, plan: Plan) -> Iterator[dict[str, Any]]:
    with system(servers, "tacoq-postgres") as at_work:
        at_work.work(WARM_TASKS)
        yield {"tasks": 0, "mib": at_work.memory()}
        for tasks in range(STEP, plan.memory_tasks + STEP, STEP):
            at_work.ask("end_to_end", tasks=STEP)
            yield {"tasks": tasks, "mib": at_work.memory()}
