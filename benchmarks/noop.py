"""No-op tasks, first publish to last result read back and verified; and lone round trips while all is idle.

    python -m benchmarks.noop --rabbitmq [--tasks 10000] [--rounds 5]

One manager, one worker with 100 slots and this publisher are processes of their own. Prints medians with minimum and
maximum: the machine is part of the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks.noop_tasks import add
from examples import servers
from tacoq_publisher import Publisher

WORKER = "benchmarks.noop_tasks:worker"
LONE = 200


async def batch(tacoq: Publisher, tasks: int) -> float:
    """Return the seconds for `tasks` tasks, published in bulk, each result compared."""
    began = time.perf_counter()
    handles = await tacoq.publish_many(add.task(i, 1) for i in range(tasks))
    expected = {handle.id: i + 1 for i, handle in enumerate(handles)}
    async for handle in tacoq.as_completed(handles):
        if await handle.result() != expected.pop(handle.id):
            raise SystemExit(f"wrong result of {handle}")
    if expected:
        raise SystemExit(f"{len(expected)} tasks have no result")
    return time.perf_counter() - began


async def lone(tacoq: Publisher) -> tuple[float, float]:
    """Return the milliseconds from publish to start and to the result of one task."""
    began, at = time.perf_counter(), time.time()
    handle = await tacoq.publish(add.task(1, 1))
    view = await handle.wait(30)
    result = (time.perf_counter() - began) * 1000
    assert view.started_at is not None
    return (view.started_at.timestamp() - at) * 1000, result


def spread(values: Sequence[float], digits: int = 0) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):,.{digits}f} ({ordered[0]:,.{digits}f}–{ordered[-1]:,.{digits}f})"


async def measure(url: str, tasks: int, rounds: int) -> None:
    async with Publisher(url) as tacoq:
        await batch(tacoq, tasks)  # warm: plans are made, run times are known
        seconds = [await batch(tacoq, tasks) for _ in range(rounds)]
        trips = [await lone(tacoq) for _ in range(LONE)]
    print(f"{tasks:,} no-op tasks: {spread(seconds, 2)} s, {spread([tasks / s for s in seconds])} tasks/s")
    for name, values in zip(("start", "result"), zip(*trips, strict=True), strict=True):
        p50, p99 = (sorted(values)[int(LONE * part)] for part in (0.5, 0.99))
        print(f"lone task, idle, publish → {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure no-op tasks end to end.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--embedded", action="store_true")
    where.add_argument("--rabbitmq", action="store_true")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    running = servers.embedded(WORKER) if given.embedded else servers.on_rabbitmq(WORKER, queue="default", workers=1)
    with running as url:
        asyncio.run(measure(url, given.tasks, given.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
