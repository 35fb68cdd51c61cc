"""Anatomy: what the milliseconds of a lone task of TacoQ are spent on, by the times that the task itself keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.measures.trips import PAUSE_SECONDS
from benchmarks.plan import WARM_TASKS, Plan
from benchmarks.servers import Servers
from benchmarks.system import system
from tacoq_publisher import Publisher

TRIPS = 100


def run(servers: Servers, _plan: Plan) -> Iterator[dict[str, Any]]:
    with system(servers, "tacoq-postgres") as at_work:
        at_work.work(WARM_TASKS)
        yield asyncio.run(_trips(f"http://127.0.0.1:{at_work.place.manager_ports[0]}"))


async def _trips(url: str) -> dict[str, list[float]]:
    """Milliseconds since the publish, of each step. Postgres tells when a statement began, not when it committed."""
    steps: dict[str, list[float]] = {}
    async with Publisher(url) as tacoq:
        for _ in range(TRIPS):
            await asyncio.sleep(PAUSE_SECONDS)
            sent = time.time()
            handle = await tacoq.publish("stamp", {"x": 1, "y": 1})
            answered = time.time()
            view = await handle.wait()
            told = time.time()
            assert view.started_at is not None
            assert view.finished_at is not None
            for step, at in (
                ("accept's statement begins", view.created_at.timestamp()),
                ("publish answered: committed", answered),
                ("handler begins", view.started_at.timestamp()),
                ("settle's statement begins", view.finished_at.timestamp()),
                ("result in the publisher's hands: committed, too", told),
            ):
                steps.setdefault(step, []).append(round((at - sent) * 1000, 3))
    return steps
