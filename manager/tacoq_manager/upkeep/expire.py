"""The expire step: waiting tasks whose deadline has passed in, `expired` out. Leader only.

A released task is not its business: the worker looks at the deadline before it starts one.
"""

from __future__ import annotations

from typing import Final

from tacoq_manager.settle import Settler
from tacoq_manager.store import schedule as store
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.transitions import expire
from tacoq_manager.upkeep.leader import Leader

MOST: Final = 1_000  # in one transaction


class Expiry:
    """Ends tasks that nobody should start any more."""

    def __init__(self, connection: HotConnection, leader: Leader, settler: Settler) -> None:
        self._connection = connection
        self._leader = leader
        self._settler = settler

    async def step(self) -> int:
        """Expire what is overdue; return how many."""
        if self._leader.epoch is None:
            return 0
        overdue = await store.overdue(self._connection, MOST)
        if not overdue:
            return 0
        return len(await self._settler.apply([expire(task_id) for task_id in overdue]))
