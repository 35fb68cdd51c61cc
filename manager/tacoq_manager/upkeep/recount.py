"""The recount: what Postgres holds in, the leader's memory of it put right. News between managers may get lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tacoq_manager.credit import Credit
from tacoq_manager.store import claim as store
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import HotConnection

STEP_SECONDS = 5.0


class Recount:
    """Counts released tasks by queue and looks up the lanes in which tasks are pending."""

    def __init__(self, connection: HotConnection, credit: Credit, on_lanes: Callable[[Iterable[Lane]], None]) -> None:
        self._connection = connection
        self._credit = credit
        self._on_lanes = on_lanes

    async def step(self) -> int:
        """Do both; return how many lanes there are."""
        before = self._credit.counted()
        self._credit.recount(await store.in_flight(self._connection), before)
        lanes = await store.lanes(self._connection)
        self._on_lanes(lanes)
        return len(lanes)
