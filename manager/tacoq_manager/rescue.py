"""Rescue: presence and doubtful releases in, lost ones back to pending (or failed, when they used up their tries).

Nothing is rescued by elapsed time alone. Time, or a message that came back, only makes a release doubtful; it is freed
when its holder is known to be lost, or when every live session of its queue has said that it does not hold it and no
message of it can be under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from uuid import UUID

from tacoq_manager.inflight import InFlight
from tacoq_manager.outstanding import Outstanding
from tacoq_manager.presence import Presence
from tacoq_manager.sessions import LEASE_SECONDS, Sessions
from tacoq_manager.settle import Settler
from tacoq_manager.store import rescue as store
from tacoq_manager.store.claim import LAST_CHANCE
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
    """Frees releases that nobody works on. Leader only. `wake` is set when there is reason to look at once."""

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
        outstanding: Outstanding,
        in_flight: InFlight,
        hold: Callable[[str, bool], None],
    ) -> None:
        """`hold(queue, True)`: nothing more is released to the queue until `hold(queue, False)`."""
        self._connection = connection
        self._broker = broker
        self._topology = topology
        self._leader = leader
        self._sessions = sessions
        self._presence = presence
        self._settler = settler
        self._outstanding = outstanding
        self._in_flight = in_flight
        self._hold = hold
        self._held_back: set[str] = set()
        self._redelivered: dict[Fence, float] = {}
        self._absent: dict[UUID, float] = {}  # sessions that run something and are not live, since when
        self.wake = asyncio.Event()

    def redelivered(self, fences: Iterable[Fence]) -> None:
        """Sessions took the messages of these off the broker without running them: first holders may still run them."""
        self._redelivered.update(dict.fromkeys(fences, time.monotonic()))
        self.wake.set()

    async def session_lost(self, session: UUID, queue: str, detail: str) -> int:
        """Free at once what a lost session has reported to run; return how many."""
        self.wake.set()  # what it had not begun was given to others, who may have handed it back before
        if not await self._outstanding.none():
            return 0  # what it reported at its end counts; the next step finds the rest
        return await self._free(await store.of_session(self._connection, session, queue), detail, died=True)

    async def take_back_all(self) -> int:
        """Free every release at once; return how many.

        Only for a start at which nobody can hold any: with an in-process broker.
        """
        released = await store.all_released(self._connection)
        return await self._free(released, "the process it ran in is gone", died=True)

    async def step(self) -> int:
        """Look for releases that nobody works on and free them; return how many."""
        steady = self._sessions.steady_since
        if self._leader.epoch is None or steady is None:
            self._absent.clear()
            self._forget_old()
            self._let_go(keep=())
            return 0
        if not self._in_flight.total():
            self._redelivered.clear()
            self._let_go(keep=())
            return 0
        returned = set(self._redelivered)
        asked = {session.session for session in self._sessions.live()}
        ids = {fence.task_id for fence in returned}
        doubtful = await store.doubtful(self._connection, asked, LEASE_SECONDS, ids)
        for fence in returned - {item.fence for item in doubtful}:
            self._redelivered.pop(fence, None)  # that release has ended
        live = {session.session for session in self._sessions.live()}  # with those that joined while Postgres was asked
        gone = self._gone({item.session for item in doubtful if item.session is not None} - live)
        if time.monotonic() - steady < LEASE_SECONDS:
            self._let_go(keep=())
            return 0  # who has not been heard since presence works again may still be there
        listed = frozenset().union(*(session.running for session in self._sessions.live()))
        doubtful = [item for item in doubtful if item.fence not in listed]
        orphans = [item for item in doubtful if item.session in gone]
        freed = 0
        if orphans and await self._outstanding.none():
            freed = await self._free(orphans, "its worker stopped sending heartbeats", died=True)
        by_queue: dict[str, list[Doubtful]] = defaultdict(list)
        for item in doubtful:
            known_to_run = item.session is not None and (item.session not in live or not item.old)
            if not known_to_run and (item.old or item.fence in returned):
                by_queue[item.queue].append(item)
        self._let_go(keep=by_queue)
        for queue, suspects in by_queue.items():
            nobodys = await self._held_by_nobody(queue, suspects)
            freed += await self._free(nobodys, "no worker holds it any more", died=False)
        return freed

    async def _held_by_nobody(self, queue: str, suspects: Sequence[Doubtful]) -> list[Doubtful]:
        """Of `suspects`, return those no message, no live session and no report on its way can belong to."""
        name = self._topology.task_queue_name(queue)
        waiting = await self._broker.message_count(name)
        if waiting and not self._sessions.slots(queue):
            # Nobody takes them; whoever comes, or goes on after a drain, would run them beside their next release.
            purged = await self._broker.purge(name)
            log.warning("messages of a queue without workers taken back", extra={"queue": queue, "messages": purged})
        elif waiting:
            # Any of them may be a suspect's. For a while nothing is added, so that the queue is seen empty.
            self._hold_back(queue)
            suspects = [item for item in suspects if item.started or item.fence in self._redelivered]
        elif queue in self._held_back:
            self._hold_back(queue)  # it was seen empty; a suspect may be in a session's hands for as long as it likes
        if not suspects:
            return []
        inventory = await self._presence.inventory(queue, INVENTORY_SECONDS)
        if inventory is None:
            return []
        held = frozenset().union(*inventory.values())
        suspects = [item for item in suspects if item.fence not in held]
        return suspects if suspects and await self._outstanding.none() else []

    def _hold_back(self, queue: str) -> None:
        """Every other time: a queue that does not become empty is not to stand still."""
        holds = queue not in self._held_back
        self._held_back.symmetric_difference_update({queue})
        self._hold(queue, holds)

    def _let_go(self, keep: Collection[str]) -> None:
        for queue in [queue for queue in self._held_back if queue not in keep]:
            self._hold_back(queue)

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

    async def _free(self, lost: Sequence[Doubtful], detail: str, *, died: bool) -> int:
        """Free these; `died`: their sessions may have ended because of them."""
        suspected = _suspected(lost) if died else frozenset()
        transitions = [
            lose(
                item.fence,
                started=item.started,
                session=item.session,
                spec=self._sessions.spec(item.queue, item.kind) or KindSpec(item.kind),
                detail=detail,
                crash=item.fence in suspected,
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
                    "crash": move.transition.crash,
                    "detail": detail,
                },
            )
        return len(applied)

    def _forget_old(self) -> None:
        """Who does not lead keeps what came back lately, for the case that it will."""
        now = time.monotonic()
        self._redelivered = {fence: at for fence, at in self._redelivered.items() if now - at < LEASE_SECONDS}


def _suspected(lost: Sequence[Doubtful]) -> frozenset[Fence]:
    """Of the runs that were lost with each session, return those that may have been the cause.

    Those suspected less often than others were only beside them, by more than one: the first time the cause may have
    died before its start was known. The last crash is counted only where nobody else is suspected so nearly as much;
    else the others come as far, and from then on each runs as the only one of them.
    """
    by_session: dict[UUID | None, list[Doubtful]] = defaultdict(list)
    for item in lost:
        if item.started:
            by_session[item.session].append(item)
    suspected: list[Doubtful] = []
    for runs in by_session.values():
        most = max(item.crashes for item in runs)
        nearly = [item for item in runs if item.crashes == most - 1]
        sure = most < LAST_CHANCE or not nearly
        suspected += nearly + [item for item in runs if item.crashes == most and sure]
    return frozenset(item.fence for item in suspected)
