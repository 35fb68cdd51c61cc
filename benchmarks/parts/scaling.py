"""Scaling: TacoQ with more workers and more managers, on the same machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.plan import WARM_TASKS, Plan
from benchmarks.servers import Servers
from benchmarks.system import system


def run(servers: Servers, plan: Plan) -> Iterator[dict[str, Any]]:
    tasks = max(plan.tasks)
    for number in range(plan.scaling_rounds):
        for managers, workers in plan.scaling:
            with system(servers, "tacoq-postgres", managers=managers, workers=workers) as at_work:
                at_work.work(WARM_TASKS)
                measured = at_work.measure("end_to_end", tasks=tasks)
            about = {"round": number, "managers": managers, "workers": workers, "tasks": tasks}
            yield about | {"seconds": measured.value, **measured.cost()}
