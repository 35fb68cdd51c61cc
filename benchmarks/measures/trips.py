"""Lone trips: nothing else is under way; milliseconds from a publish to its start and to its result out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.peer import Peer

PAUSE_SECONDS = 0.05  # until all is idle again


async def trips(peer: Peer[Any], count: int) -> tuple[list[float], list[float]]:
    starts, results = [], []
    for number in range(count):
        await asyncio.sleep(PAUSE_SECONDS)
        sent = time.monotonic()
        started = await peer.result(await peer.publish("stamp", number))
        results.append((time.monotonic() - sent) * 1000)
        starts.append((started - sent) * 1000)
    return starts, results
