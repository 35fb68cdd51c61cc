"""End to end: a number of no-op tasks in; the seconds from first publish to last result, read and compared, out."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peer import Peer


async def end_to_end(peer: Peer[Any], tasks: int) -> float:
    began = time.perf_counter()
    tickets = await peer.publish_many("add", range(tasks))
    values = await peer.results(tickets)
    seconds = time.perf_counter() - began
    verify(values, tasks)
    return seconds


def verify(values: list[float], tasks: int) -> None:
    wrong = [(x, value) for x, value in enumerate(values) if value != x + 1]
    if wrong or len(values) != tasks:
        raise AssertionError(f"{len(values)} results of {tasks} tasks, {len(wrong)} of them wrong: {wrong[:3]}")
