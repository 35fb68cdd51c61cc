"""Unpublished: statements whose answers were lost in; what they released, which nobody publishes, given back out.

The claims of a leader are one after the other. So what a lost one took was queued after the last that came through, and
nothing else of its queue was, if it is looked for before the next claim of that queue; but for what accept released
meanwhile. Of that the ids are known before it is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tacoq_manager.settle import Settler
from tacoq_manager.store import claim as store
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.store.leader import Taken
from tacoq_manager.transitions import give_back
from tacoq_manager.upkeep.leader import Leader
from tacoq_protocol.messages import Fence

log = logging.getLogger("tacoq.dispatch")


@dataclass(eq=False, slots=True)
class Direct:
    """Tasks that one accept may release, later than `since`. `at`: the database's time of it, once it was answered."""

    ids: frozenset[UUID]
    epoch: int
    since: datetime
    at: datetime | None = None


class Unpublished:
    """Remembers by queue since when tasks may be queued that nobody publishes, and which of accept's may be."""

    def __init__(
        self, connection: HotConnection, leader: Leader, settler: Settler, recount: Callable[[], Awaitable[int]]
    ) -> None:
        self._connection = connection
        self._leader = leader
        self._settler = settler
        self._recount = recount
        self._since: dict[str, datetime] = {}
        self._last: datetime | None = None  # claim that came through, or what is as good as one
        self._epoch = 0
        self._claims = 0  # under way
        self._direct: list[Direct] = []  # after the last claim, or perhaps
        self._lost: list[Direct] = []
        self._doubtful: list[Fence] = []

    @property
    def none(self) -> bool:
        """True when nothing can be queued that nobody publishes."""
        return not (self._since or self._lost or self._doubtful)

    def taken(self, taken: Taken) -> None:
        """This manager leads now. When another one did meanwhile, what is queued may be of its claims."""
        if taken.epoch != self._epoch + 1:
            self._since = {}  # not cleared: a claim that is under way since then must not be remembered, either
            self._lost = []
            self._doubtful = []
        self._epoch, self._last = taken.epoch, taken.at

    def came_through(self, at: datetime) -> None:
        """A claim was answered; `at` is the database's time of it."""
        self._last = at if self._last is None else max(self._last, at)  # answers may come in another order
        self._direct = [direct for direct in self._direct if direct.at is None or direct.at > at]

    @contextmanager
    def watching(self, queue: str) -> Iterator[None]:
        """Around a claim of `queue`."""
        since, last = self._since, self._last
        self._claims += 1
        try:
            yield
        except (DatabaseUnavailable, asyncio.CancelledError):
            assert last is not None, "nothing is claimed before the lead is taken"
            since.setdefault(queue, last)
            raise
        finally:
            self._claims -= 1

    def direct(self, ids: Iterable[UUID]) -> Direct:
        """An accept is about to be sent that may release these, each for the first time."""
        times = [direct.at for direct in self._direct if direct.at is not None]
        assert self._last is not None, "nothing is released before the lead is taken"
        direct = Direct(frozenset(ids), self._epoch, max([self._last, *times]))
        self._direct.append(direct)
        return direct

    def answered(self, direct: Direct, at: datetime | None) -> None:
        """It was answered; `at` is the database's time of it, None when it released nothing."""
        if at is None:
            self._direct.remove(direct)
            return
        direct.at = at
        if not self._claims and self.none:
            self.came_through(at)  # the next claim is later

    def lost(self, direct: Direct) -> None:
        """Its answer was lost: what it released, if it did, nobody publishes."""
        self._direct.remove(direct)
        if direct.epoch == self._epoch:  # else others may have accepted and released the same since
            self._lost.append(direct)

    def doubt(self, fences: Iterable[Fence]) -> None:
        """These are to be given back, and Postgres is away."""
        self._doubtful += fences

    async def give_back(self) -> None:
        """Give back all that nobody publishes, as soon as this manager leads.

        Raises DatabaseUnavailable: then it is still to be done.
        """
        epoch, remembered, lost, doubtful = self._leader.epoch, self._since, self._lost, self._doubtful
        if epoch is None or self.none:
            return
        for queue, since in list(remembered.items()):
            found = await store.unpublished(
                self._connection, epoch=epoch, holder=self._leader.holder, queue=queue, since=since
            )
            if found is None:
                return  # the lead has run out; it may be taken anew
            known = frozenset[UUID]().union(*(direct.ids for direct in self._direct))
            await self._give_back([fence for fence in found if fence.task_id not in known])
            del remembered[queue]
        while lost:
            await self._give_back(await store.accepted(self._connection, epoch, lost[0].ids, lost[0].since))
            del lost[0]
        if doubtful:
            fences = doubtful.copy()
            await self._give_back(fences)
            del doubtful[: len(fences)]
        await self._recount()  # it was not counted when it was taken, or not when it was given back

    async def _give_back(self, fences: Sequence[Fence]) -> None:
        given_back = await self._settler.apply([give_back(fence) for fence in fences]) if fences else []
        if given_back:
            log.warning("what a lost statement released is given back", extra={"tasks": len(given_back)})
