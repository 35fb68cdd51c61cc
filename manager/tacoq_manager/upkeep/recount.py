"""The recount: what Postgres holds in, the leader's memory of it put right. News between managers may get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from tacoq_manager.inflight import InFlight
from tacoq_manager.store import claim as store
from tacoq_manager.store.claim import Lane, Line
from tacoq_manager.store.engine import HotConnection

STEP_SECONDS = 5.0


class Recount:
    """Counts released tasks and looks up the lanes in which tasks are pending."""

    def __init__(
        self,
        connection: HotConnection,
        in_flight: InFlight,
        *,
        on_lanes: Callable[[Iterable[Lane]], None],
        on_ended: Callable[[Iterable[Line]], None],
    ) -> None:
        """`on_ended`: of these fewer are out than was thought."""
        self._connection = connection
        self._in_flight = in_flight
        self._on_lanes = on_lanes
        self._on_ended = on_ended
        self._turn = asyncio.Lock()

    async def step(self) -> int:
        """Do both; return how many lanes there are."""
        async with self._turn:
            self._in_flight.watch()
            self._on_ended(self._in_flight.recount(*await store.in_flight(self._connection)))
            lanes = await store.lanes(self._connection)
            self._on_lanes(lanes)
            return len(lanes)
