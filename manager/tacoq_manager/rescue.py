"""Rescue: presence and doubtful releases in, lost ones back to pending (or failed, when they used up their tries).

Nothing is rescued by elapsed time alone. Time only makes a release doubtful; it is freed when its holder is known to be
lost, or when every live session of its queue has said that it does not hold it and no message of it can be under way.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from tacoq_manager.credit import Credit
from tacoq_manager.presence import Presence
from tacoq_manager.sessions import LEASE_SECONDS, Sessions
from tacoq_manager.settle import Settler
from tacoq_manager.store import rescue as store
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.store.rescue import Doubtful
from tacoq_manager.transitions import lose
from tacoq_manager.upkeep.leader import Leader
from tacoq_protocol.broker import Broker
from tacoq_protocol.messages import Fence, KindSpec
from tacoq_protocol.topology import Topology

log = logging.getLogger("tacoq.rescue")

STEP_SECONDS = 2.0
INVENTORY_SECONDS = 2.0


class Rescuer:
    """Frees releases that nobody works on. Leader only."""

    def __init__(
        self,
        connection: HotConnection,
        broker: Broker,
        topology: Topology,
        *,
        leader: Leader,
        sessions: Sessions,
        presence: Presence,
        settler: Settler,
        credit: Credit,
    ) -> None:
        self._connection = connection
        self._broker = broker
        self._topology = topology
        self._leader = leader
        self._sessions = sessions
        self._presence = presence
        self._settler = settler
        self._credit = credit
        self._redelivered: dict[Fence, float] = {}
        self._absent: dict[UUID, float] = {}  # sessions that run something and are not live, since when

    def redelivered(self, fence: Fence) -> None:
        """A session took the message of `fence` off the broker without running it: its first holder may still
        run it.
        """
        self._redelivered[fence] = time.monotonic()

    async def session_lost(self, session: UUID, queue: str, detail: str) -> int:
        """Free at once what a lost session has reported to run; return how many."""
        if not await self._reports_are_settled():
            return 0  # what it reported at its end counts; the next step finds the rest
        return await self._free(await store.of_session(self._connection, session, queue), detail)

    async def take_back_all(self) -> int:
        """Free every release at once; return how many.

        Only for a start at which nobody can hold any: with an in-process broker.
        """
        return await self._free(await store.all_released(self._connection), "the process it ran in is gone")

    async def step(self) -> int:
        """Look for releases that nobody works on and free them; return how many."""
        steady = self._sessions.steady_since
        if self._leader.epoch is None or steady is None:
            self._absent.clear()
            return 0
        if not self._credit.total():
            self._redelivered.clear()
            return 0
        asked = {session.session for session in self._sessions.live()}
        doubtful = await store.doubtful(self._connection, asked, LEASE_SECONDS)
        self._redelivered = _of_late(self._redelivered, {item.fence for item in doubtful})
        live = {session.session for session in self._sessions.live()}  # with those that joined while Postgres was asked
        gone = self._gone({item.session for item in doubtful if item.session is not None} - live)
        if time.monotonic() - steady < LEASE_SECONDS:
            return 0  # who has not been heard since presence works again may still be there
        listed = frozenset().union(*(session.running for session in self._sessions.live()))
        doubtful = [item for item in doubtful if item.fence not in listed]
        orphans = [item for item in doubtful if item.session in gone]
        freed = 0
        if orphans and await self._reports_are_settled():
            freed = await self._free(orphans, "its worker stopped sending heartbeats")
        by_queue: dict[str, list[Doubtful]] = defaultdict(list)
        for item in doubtful:
            if item.session is None or item.session in live:
                by_queue[item.queue].append(item)
        for queue, suspects in by_queue.items():
            freed += await self._free(await self._held_by_nobody(queue, suspects), "no worker holds it any more")
        return freed

    async def _held_by_nobody(self, queue: str, suspects: Sequence[Doubtful]) -> list[Doubtful]:
        """Of `suspects`, return those no message, no live session and no report on its way can belong to."""
        waiting = await self._broker.message_count(self._topology.task_queue_name(queue))
        suspects = [item for item in suspects if item.started or not waiting or item.fence in self._redelivered]
        if not suspects:
            return []
        inventory = await self._presence.inventory(queue, INVENTORY_SECONDS)
        if inventory is None:
            return []
        held = frozenset().union(*inventory.values())
        suspects = [item for item in suspects if item.fence not in held]
        return suspects if suspects and await self._reports_are_settled() else []

    async def _reports_are_settled(self) -> bool:
        """True when all that workers had confirmed before this call is applied.

        Who was found not to hold a release, or to be lost, may have reported its outcome just before.
        """
        if await self._broker.message_count(self._topology.reports_queue.name):
            return False
        await self._settler.caught_up()
        return True

    def _gone(self, absent: set[UUID]) -> set[UUID]:
        """Of these sessions, that run something and are not live, return those that will not be heard any more.

        One that begins may report a start before its registration comes: it is given a lease.
        """
        now = time.monotonic()
        self._absent = {session: self._absent.get(session, now) for session in absent}
        return {
            session
            for session, since in self._absent.items()
            if self._sessions.is_gone(session) or now - since >= LEASE_SECONDS
        }

    async def _free(self, lost: Iterable[Doubtful], detail: str) -> int:
        transitions = [
            lose(
                item.fence,
                started=item.started,
                session=item.session,
                spec=self._sessions.spec(item.queue, item.kind) or KindSpec(item.kind),
                detail=detail,
            )
            for item in lost
        ]
        if not transitions:
            return 0
        applied = await self._settler.apply(transitions)
        for move in applied:
            log.warning(
                "release lost",
                extra={
                    "task_id": move.transition.task_id,
                    "release": move.transition.release,
                    "session": move.transition.session,
                    "to": move.state,
                    "detail": detail,
                },
            )
            self._redelivered.pop(Fence(move.transition.task_id, move.transition.release or 0), None)
        return len(applied)


def _of_late(redelivered: dict[Fence, float], doubtful: set[Fence]) -> dict[Fence, float]:
    """Drop what is older than a lease and not doubtful: its release has ended."""
    now = time.monotonic()
    return {fence: at for fence, at in redelivered.items() if fence in doubtful or now - at < LEASE_SECONDS}
