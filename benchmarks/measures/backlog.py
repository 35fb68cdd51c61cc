"""A backlog: published while no worker runs, one by one and in bulk; then drained by workers started for it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.peer import Peer


async def publish_singly(peer: Peer[Any], tasks: int) -> tuple[list[Any], float]:
    """Single calls, all made at once. Return the tickets and the seconds."""
    began = time.perf_counter()
    tickets = await asyncio.gather(*(peer.publish("stamp", number) for number in range(tasks)))
    return list(tickets), time.perf_counter() - began


async def publish_in_bulk(peer: Peer[Any], tasks: int) -> tuple[list[Any], float]:
    began = time.perf_counter()
    tickets = await peer.publish_many("stamp", range(tasks))
    return tickets, time.perf_counter() - began


async def drain(peer: Peer[Any], tickets: list[Any]) -> tuple[float, float]:
    """Return the seconds from first start to last start, and to the last result read; the workers are just starting."""
    started = await peer.results(tickets)
    return max(started) - min(started), time.monotonic() - min(started)
