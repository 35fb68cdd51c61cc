"""Limiting: changes of limits in, by whichever manager they come; the leader's memory of them, up to date, out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tacoq_manager.limits import Limits
from tacoq_manager.store import limits as store
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_manager.store.limits import Held
from tacoq_manager.upkeep.leader import Leader
from tacoq_protocol.limits import KindLimits, QueueLimits, SetKindLimits, SetQueueLimits

log = logging.getLogger("tacoq.limits")

PRUNE_SECONDS = 30.0


class Limiting:
    """Sets limits, and knows when those in memory are not the newest."""

    def __init__(
        self,
        database: Database,
        limits: Limits,
        leader: Leader,
        *,
        on_news: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        """`on_news`: tell the other managers; `on_change`: what is in memory has changed."""
        self._database = database
        self._limits = limits
        self._leader = leader
        self._on_news = on_news
        self._on_change = on_change

    async def pause(self, queue: str) -> None:
        """Release nothing more of a queue: nothing is when this returns. Raises DatabaseUnavailable."""
        await store.pause(self._database, queue, True)
        await self._changed()

    async def resume(self, queue: str) -> None:
        """Release tasks of a queue again. Raises DatabaseUnavailable."""
        await store.pause(self._database, queue, False)
        await self._changed()

    async def set_queue(self, queue: str, limits: QueueLimits) -> None:
        """Set all limits of a queue. Raises DatabaseUnavailable."""
        await store.set_queue(self._database, queue, lambda _: limits)
        await self._changed()

    async def change_queue(self, queue: str, limits: SetQueueLimits) -> None:
        """Set the limits of a queue that are given. Raises DatabaseUnavailable, and ValidationError for too many."""
        await store.set_queue(self._database, queue, limits.over)
        await self._changed()

    async def set_kind(self, flow: Flow, limits: KindLimits) -> None:
        """Set what goes before the limits of a kind's code. Raises DatabaseUnavailable."""
        await store.set_kind(self._database, flow, lambda _: limits)
        await self._changed()

    async def change_kind(self, flow: Flow, limits: SetKindLimits) -> None:
        """Set those of them that are given. Raises DatabaseUnavailable."""
        await store.set_kind(self._database, flow, limits.over)
        await self._changed()

    async def let_go(self, flow: Flow) -> None:
        """End what holds a kind and its keys back. Raises DatabaseUnavailable."""
        await store.let_go(self._database, flow)
        await self._changed()

    async def load(self) -> None:
        """Learn what is set, held and drawn: others may have changed all of it. Raises DatabaseUnavailable."""
        self._limits.load(await store.load(self._database.read))
        self._limits.buckets.watch()
        self._limits.buckets.load(await store.load_buckets(self._database.read))
        self._on_change()

    async def outdated(self, version: int) -> bool:
        """True when limits are not those of `version` any more, by which a claim took nothing; they are known then.

        Raises DatabaseUnavailable.
        """
        newest = await store.version(self._database.read)
        if newest != self._limits.version:
            await self._refresh()
        return newest != version  # what is known may have become newer while the claim was under way

    async def heard(self) -> None:
        """Others have changed limits. Raises DatabaseUnavailable."""
        if self._leader.leads:
            await self._refresh()

    async def prune(self) -> int:
        """Forget what limits nothing any more; return how many rows that was."""
        self._limits.prune()
        return await store.prune(self._database.upkeep)

    def held(self, held: Sequence[Held], version: int) -> None:
        """Handlers hold these back; that is stored, and made `version`."""
        if held:
            log.info("held back", extra={"held": [each.of for each in held], "seconds": held[0].seconds})
            self._on_news()
            if self._leader.leads:
                self._limits.hold(held, version)

    async def _changed(self) -> None:
        self._on_news()
        if not self._leader.leads:
            return
        try:
            await self._refresh()
        except DatabaseUnavailable:  # it is set; the leader's next tick, or claim, sees it
            log.info("limits are read again later")

    async def _refresh(self) -> None:
        self._limits.load(await store.load(self._database.read))
        self._on_change()
