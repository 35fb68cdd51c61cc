"""Unpublished: claims whose answers were lost in; what they took, which nobody publishes, given back out.

The claims of a leader are one after the other. So what a lost one took was queued after the last that came through, and
nothing else of its queue was, if it is looked for before the next claim of that queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from tacoq_manager.settle import Settler
from tacoq_manager.store import claim as store
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.store.leader import Taken
from tacoq_manager.transitions import give_back
from tacoq_manager.upkeep.leader import Leader

log = logging.getLogger("tacoq.dispatch")


class Unpublished:
    """Remembers by queue since when tasks may be queued that nobody publishes."""

    def __init__(
        self, connection: HotConnection, leader: Leader, settler: Settler, recount: Callable[[], Awaitable[int]]
    ) -> None:
        self._connection = connection
        self._leader = leader
        self._settler = settler
        self._recount = recount
        self._since: dict[str, datetime] = {}
        self._last: datetime | None = None  # claim that came through, or the take of the lead
        self._epoch = 0

    def taken(self, taken: Taken) -> None:
        """This manager leads now. When another one did meanwhile, what is queued may be of its claims."""
        if taken.epoch != self._epoch + 1:
            self._since = {}  # not cleared: a claim that is under way since then must not be remembered, either
        self._epoch, self._last = taken.epoch, taken.at

    def came_through(self, at: datetime) -> None:
        """A claim was answered; `at` is the database's time of it."""
        self._last = at

    @contextmanager
    def watching(self, queue: str) -> Iterator[None]:
        """Around a claim of `queue`, its publish, and what is given back of it."""
        since, last = self._since, self._last
        try:
            yield
        except (DatabaseUnavailable, asyncio.CancelledError):
            assert last is not None, "nothing is claimed before the lead is taken"
            since.setdefault(queue, last)
            raise

    async def give_back(self) -> None:
        """Give back all that nobody publishes, as soon as this manager leads.

        Raises DatabaseUnavailable: then it is still to be done.
        """
        epoch, remembered = self._leader.epoch, self._since
        if epoch is None or not remembered:
            return
        for queue, since in list(remembered.items()):
            found = await store.unpublished(
                self._connection, epoch=epoch, holder=self._leader.holder, queue=queue, since=since
            )
            if found is None:
                return  # the lead has run out; it may be taken anew
            if found:
                await self._settler.apply([give_back(fence) for fence in found])
                log.warning("what a lost claim took is given back", extra={"queue": queue, "tasks": len(found)})
            del remembered[queue]
        await self._recount()  # it was not counted when it was taken, or not when it was given back
