"""Rounds: every product has a turn in each, alone on the machine, its workers warm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.plan import RATE, WARM_TASKS, Plan
from benchmarks.servers import Servers
from benchmarks.stats import latencies
from benchmarks.system import Fault, System, system


def run(servers: Servers, plan: Plan) -> Iterator[dict[str, Any]]:
    for number in range(plan.rounds):
        for peer in plan.peers:
            about = {"peer": peer, "round": number}
            try:
                yield about | _turn(servers, plan, peer, latency=number < plan.latency_rounds)
            except Fault as fault:
                print(fault, file=sys.stderr)
                yield about | {"fault": fault.what}


def _turn(servers: Servers, plan: Plan, peer: str, *, latency: bool) -> dict[str, Any]:
    with system(servers, peer) as at_work:
        at_work.work(WARM_TASKS)
        record: dict[str, Any] = {"versions": at_work.versions, "memory_idle": at_work.memory(), "end_to_end": {}}
        for tasks in plan.tasks_of(peer):
            measured = at_work.measure("end_to_end", tasks=tasks)
            record["end_to_end"][str(tasks)] = {"seconds": measured.value, **measured.cost()}
        record["memory_after"] = at_work.memory()
        if latency:
            starts, results = at_work.ask("trips", count=plan.trips)
            record["lone"] = {"start": starts, "result": results}
            record["rate"] = _at(at_work, RATE, plan.rate_seconds)
            record["half"] = _at(at_work, tasks / record["end_to_end"][str(tasks)]["seconds"] / 2, plan.rate_seconds)
    return record


def _at(at_work: System, per_second: float, seconds: float) -> dict[str, Any]:
    """Lone publishes at a steady rate. The CPU is that of the tasks that had begun, without reading results."""
    measured = at_work.measure("publish_at", per_second=per_second, seconds=seconds)
    starts, begun = at_work.ask("starts")
    return {
        "asked": per_second,
        "per_second": measured.value,
        "begun": begun,
        "start": latencies(starts),
        **measured.cost(),
    }
