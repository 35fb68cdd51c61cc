"""Stats: committed moves in; how many tasks of each kind ended, and how long they ran, by the minute, out.

They are counted in memory, a batch at a time, and written every few seconds: who dies takes the last of them along.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final
from uuid import UUID

from tacoq_manager.store import stats as store
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.store.settle import Applied
from tacoq_manager.store.stats import Tally
from tacoq_protocol.states import FINAL, TaskState

STEP_SECONDS: Final = 5.0
STOP_SECONDS: Final = 2.0


def tally(moves: Iterable[Applied]) -> dict[Flow, Tally]:
    """Count what ended, and the runs that did, by kind."""
    tallies: dict[tuple[str, str], Tally] = {}  # a Flow is such a pair, and costs a quarter of a microsecond
    for move in moves:
        transition, state = move.transition, move.state
        ran = transition.seconds if transition.move != "start" else None  # then it goes on
        final = state in FINAL
        if ran is None and not final:
            continue
        flow = (move.queue, move.kind)
        found = tallies.get(flow)
        if found is None:
            found = tallies[flow] = Tally()
        if state is TaskState.COMPLETED:
            found.completed += 1
        elif final:
            setattr(found, state.value, getattr(found, state.value) + 1)
        elif transition.move == "fail":
            found.retried += 1
        if ran is not None:
            found.runs += 1
            found.run_seconds += ran if 0 <= ran < math.inf else 0.0  # as a worker of somebody else may tell
    return {Flow(*flow): found for flow, found in tallies.items()}


class Stats:
    """What one manager has settled."""

    def __init__(self, connection: HotConnection, manager: UUID) -> None:
        self._connection = connection
        self._manager = manager
        self._unwritten: dict[Flow, Tally] = {}

    def add(self, tallies: Mapping[Flow, Tally]) -> None:
        for flow, more in tallies.items():
            self._unwritten.setdefault(flow, Tally()).add(more)

    async def step(self) -> int:
        """Write what was counted since the last step; return of how many kinds. Nothing new: nothing is asked.

        Raises DatabaseUnavailable: they are written by the next step, twice if the answer was lost.
        """
        tallies, self._unwritten = self._unwritten, {}
        if tallies:
            try:
                await store.add(self._connection, self._manager, tallies)
            except BaseException:  # the stop, too
                self.add(tallies)
                raise
        return len(tallies)

    async def stop(self) -> None:
        """Write the last of them, if Postgres answers soon."""
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.step()
