"""Prompts: what there is to do, noticed by this manager in; the leader, who may be another one, told at once out.

Lost prompts cost only time: the leader recounts. What gathers in GATHER_SECONDS goes together, in a transaction of its
own: Postgres lets those that notify commit one after the other, and the commits of several managers must not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import Final

import msgspec

from tacoq_manager.store import prompts as store
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.upkeep.leader import Leader

log = logging.getLogger("tacoq.prompts")

GATHER_SECONDS: Final = 0.005
RETRY_SECONDS: Final = 0.5


class Prompter:
    """Tells the stages of this manager, and the one that leads when this one does not."""

    def __init__(
        self,
        connection: HotConnection,
        leader: Leader,
        *,
        on_lanes: Callable[[Collection[Lane]], None],
        on_due: Callable[[float], None],
        on_deadline: Callable[[float], None],
        on_missed: Callable[[], None],
    ) -> None:
        """`on_missed`: prompts of others may have been lost."""
        self._connection = connection
        self._leader = leader
        self._on_lanes = on_lanes
        self._on_due = on_due
        self._on_deadline = on_deadline
        self._on_missed = on_missed
        self._lanes: dict[Lane, None] = {}
        self._due: float | None = None  # monotonic, as `_deadline`
        self._deadline: float | None = None
        self._work = asyncio.Event()

    def lanes(self, lanes: Iterable[Lane]) -> None:
        """Tasks became pending in these lanes, or one that stood at their head is gone."""
        lanes = list(lanes)
        self._on_lanes(lanes)
        if lanes and self._leader.epoch is None:
            self._lanes.update(dict.fromkeys(lanes))
            self._work.set()

    def due(self, seconds: float) -> None:
        """A scheduled task comes due `seconds` from now."""
        self._on_due(seconds)
        if self._leader.epoch is None:
            self._due = _earlier(self._due, monotonic() + seconds)
            self._work.set()

    def deadline(self, seconds: float) -> None:
        """A waiting task expires `seconds` from now."""
        self._on_deadline(seconds)
        if self._leader.epoch is None:
            self._deadline = _earlier(self._deadline, monotonic() + seconds)
            self._work.set()

    def hear(self, payload: str | None) -> None:
        """A prompt came, of this manager or another; None: we listen anew."""
        if payload is None:
            self._on_missed()
            return
        try:
            prompt = store.decode(payload)
        except msgspec.MsgspecError as error:  # of another version, perhaps
            log.warning("prompt not understood", extra={"reason": str(error)})
            self._on_missed()
            return
        if prompt.vacant:
            self._leader.vacant.set()
        self._on_lanes(prompt.lanes)
        if prompt.due is not None:
            self._on_due(prompt.due)
        if prompt.deadline is not None:
            self._on_deadline(prompt.deadline)

    async def run(self) -> None:
        """Send for ever, what gathers meanwhile together."""
        while True:
            await self._work.wait()
            try:
                await self.step()
            except DatabaseUnavailable as error:
                log.info("prompts wait for Postgres", extra={"reason": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # Postgres keeps what somebody has not heard, and takes no more one day
                log.exception("prompts lost")
            await asyncio.sleep(GATHER_SECONDS)

    async def step(self) -> int:
        """Send what has gathered; return how many lanes that were. Raises DatabaseUnavailable, and keeps it."""
        self._work.clear()
        lanes, self._lanes = self._lanes, {}
        due, self._due = self._due, None
        deadline, self._deadline = self._deadline, None
        now = monotonic()
        try:
            await store.send(
                self._connection,
                lanes,
                None if due is None else due - now,
                None if deadline is None else deadline - now,
            )
        except DatabaseUnavailable:
            self._lanes = lanes | self._lanes
            self._due = _earlier(self._due, due)
            self._deadline = _earlier(self._deadline, deadline)
            self._work.set()
            raise
        return len(lanes)


def _earlier(one: float | None, other: float | None) -> float | None:
    known = [moment for moment in (one, other) if moment is not None]
    return min(known, default=None)
