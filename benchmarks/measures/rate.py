"""A steady rate: so many lone publishes a second in; how long each waited for its start out.

Each publish is made at its time, whether the one before is answered or not. Results are read when all is over, so that
they cost nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.peer import Peer

SETTLE_SECONDS = 0.5  # for the last ones to end


@dataclass(frozen=True)
class Published:
    """`per_second` is what was reached: a publisher that is too slow falls behind. `until`: when the measure ended."""

    tickets: list[tuple[Any, float]]
    per_second: float
    until: float


async def publish_at(peer: Peer[Any], per_second: float, seconds: float) -> Published:
    async def one(number: int) -> tuple[Any, float]:
        sent = time.monotonic()
        return await peer.publish("stamp", number), sent

    count = max(1, round(per_second * seconds))
    began = time.monotonic()
    under_way = []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
        under_way.append(asyncio.create_task(one(number)))
    tickets = await asyncio.gather(*under_way)
    took = max(time.monotonic() - began, count / per_second)
    await asyncio.sleep(SETTLE_SECONDS)
    return Published(tickets, count / took, time.monotonic())


async def starts(peer: Peer[Any], published: Published) -> tuple[list[float], int]:
    """Milliseconds from each publish to its start, and how many had started when the measure ended."""
    values = await peer.results([ticket for ticket, _ in published.tickets])
    latencies = [(started - sent) * 1000 for started, (_, sent) in zip(values, published.tickets, strict=True)]
    return latencies, sum(started <= published.until for started in values)
