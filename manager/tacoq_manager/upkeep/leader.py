"""Leadership: one manager at a time dispatches and does upkeep. It renews the row every second; the others look at it
when the lease that they saw there runs out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from tacoq_manager.store import leader as store
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.upkeep.loops import Step

log = logging.getLogger("tacoq.leader")

RENEW_SECONDS = 1.0
SOONEST_SECONDS = 0.05  # between two looks at a row that another took at the same moment


class Leader:
    """Whether this manager leads. The database has the last word: every claim names the epoch."""

    def __init__(
        self,
        connection: HotConnection,
        holder: UUID,
        *,
        on_taken: Callable[[store.Taken], Awaitable[None]],
        on_tick: Callable[[store.Tick], None],
    ) -> None:
        self.holder = holder
        self._connection = connection
        self._on_taken = on_taken
        self._on_tick = on_tick
        self._epoch: int | None = None
        self._until = 0.0
        self._taking = False
        self._pause = RENEW_SECONDS
        self.vacant = asyncio.Event()  # set: nobody leads, take it

    @property
    def epoch(self) -> int | None:
        """The epoch this manager leads with; None when it does not lead, or cannot be sure to."""
        return self._epoch if time.monotonic() < self._until else None

    @property
    def leads(self) -> bool:
        """True from when the lead was taken, before it is learnt what is out, until it is known to be lost."""
        return self._taking or self._epoch is not None

    def pause(self) -> float:
        """Seconds until the next step."""
        return self._pause

    async def step(self) -> int:
        """Renew the lead, or take it when nobody has it; return 1 while leading."""
        self._pause = RENEW_SECONDS
        if self._epoch is not None:
            try:
                if await self._renew(self._epoch):
                    return 1
            except DatabaseUnavailable:
                return 0  # the lease runs out by itself, and is renewed when Postgres is back in time
            log.warning("leadership lost", extra={"epoch": self._epoch})
            self._epoch = None
        taken = await store.take(self._connection, self.holder)
        if not isinstance(taken, store.Taken):
            self._pause = max(SOONEST_SECONDS, taken)
            return 0
        self._taking = True
        try:
            await self._learn(taken)  # before `epoch` is seen; when it fails the lead runs out and is taken anew
            if not await self._renew(taken.epoch):
                return 0
            self._epoch = taken.epoch
        finally:
            self._taking = False
        log.info("leadership taken", extra={"epoch": taken.epoch})
        return 1

    def while_leading(self, step: Step) -> Step:
        """Return a step that does nothing while another leads."""

        async def stepped() -> int:
            return await step() if self.epoch is not None else 0

        return stepped

    async def _renew(self, epoch: int) -> bool:
        began = time.monotonic()  # the lease counts from before the statement: never longer here than there
        tick = await store.renew(self._connection, epoch, self.holder)
        if tick is None:
            return False
        self._until = began + store.LEASE_SECONDS
        self._on_tick(tick)
        return True

    async def _learn(self, taken: store.Taken) -> None:
        """Do what a new leader does first, and hold the lead meanwhile: it may take longer than a lease."""
        learning = asyncio.ensure_future(self._on_taken(taken))
        try:
            while not (await asyncio.wait([learning], timeout=RENEW_SECONDS))[0]:
                await store.renew(self._connection, taken.epoch, self.holder)
            learning.result()
        finally:
            learning.cancel()
            await asyncio.gather(learning, return_exceptions=True)

    async def give_up(self) -> None:
        """Stop leading and let another take over at once."""
        epoch, self._epoch = self._epoch, None
        if epoch is not None:
            try:
                await store.give_up(self._connection, epoch, self.holder)
            except DatabaseUnavailable:
                log.warning("leadership could not be given up; it runs out", extra={"epoch": epoch})
