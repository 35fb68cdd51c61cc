"""The schedule step: scheduled tasks that have come due in, lanes with pending tasks out. Leader only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from tacoq_manager.store import schedule as store
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.upkeep.leader import Leader

MOST: Final = 1_000  # in one statement


class Schedule:
    """Moves due tasks to pending."""

    def __init__(self, connection: HotConnection, leader: Leader, on_lanes: Callable[[Iterable[Lane]], None]) -> None:
        self._connection = connection
        self._leader = leader
        self._on_lanes = on_lanes

    async def step(self) -> int:
        """Promote what is due; return how many."""
        if self._leader.epoch is None:
            return 0
        promoted = await store.promote_due(self._connection, MOST)
        self._on_lanes([item.lane for item in promoted])
        return sum(item.tasks for item in promoted)
