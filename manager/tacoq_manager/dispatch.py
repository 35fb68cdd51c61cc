"""Dispatch: lanes and credit in, released tasks out: claimed in Postgres, published to RabbitMQ, confirmed.

Between the claim's commit and the publish nothing is lost by a crash: the rows are `queued` and nobody holds them,
which is what the rescue looks for. What a claim took whose answer is lost is given back first thing; a publish that is
not confirmed is given back at once; should the broker have it all the same, the two releases have different numbers,
and only one outcome counts. What may run once only is left to the rescue then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import groupby

import msgspec

from tacoq_manager.credit import Credit, FreeSlots
from tacoq_manager.lanes import Lanes
from tacoq_manager.metrics import Metrics
from tacoq_manager.sessions import Sessions
from tacoq_manager.settle import Settler
from tacoq_manager.store import claim as store
from tacoq_manager.store.claim import Claimed, Flow, Lane, Take
from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_manager.store.leader import Taken
from tacoq_manager.transitions import give_back
from tacoq_manager.unpublished import Unpublished
from tacoq_manager.upkeep.leader import Leader
from tacoq_protocol.broker import Broker, Declared, LinkState, Outgoing
from tacoq_protocol.codec import RELEASES, cut, encode
from tacoq_protocol.errors import BrokerError, BrokerUnavailable, Unroutable
from tacoq_protocol.messages import Release, Releases
from tacoq_protocol.topology import Topology

log = logging.getLogger("tacoq.dispatch")

CLAIM_TASKS = 1_000  # at once; more wait for the next round
PUBLISH_SECONDS = 5.0
FINISH_SECONDS = PUBLISH_SECONDS + 2.0  # what is not confirmed by then has been given back
RETRY_SECONDS = 0.2


class Dispatcher:
    """Releases what may run, whenever something changed: work, credit, sessions, lead or link."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        topology: Topology,
        *,
        leader: Leader,
        sessions: Sessions,
        settler: Settler,
        lanes: Lanes,
        credit: Credit,
        metrics: Metrics,
        recount: Callable[[], Awaitable[int]],
    ) -> None:
        self._database = database
        self._broker = broker
        self._topology = topology
        self._leader = leader
        self._sessions = sessions
        self._settler = settler
        self._lanes = lanes
        self._credit = credit
        self._metrics = metrics
        self._unpublished = Unpublished(database.claim, leader, settler, recount)
        self._round = asyncio.Lock()
        self._finishing = False
        self._changed = asyncio.Event()
        self._declared: set[str] = set()
        self._held: set[str] = set()
        self._failed: dict[str, float] = {}  # queues that the broker took nothing for, since when

    def taken(self, taken: Taken) -> None:
        """This manager leads from now on."""
        self._unpublished.taken(taken)
        self._lanes.forget()  # others have taken from them

    def wake(self) -> None:
        """Something changed that may let a task run."""
        self._changed.set()

    def note(self, lanes: Iterable[Lane]) -> None:
        """Tasks became pending in these lanes. Who does not lead will look for all of them when it does."""
        if self._leader.leads:
            self._lanes.note(lanes)
            self._changed.set()

    def hold(self, queue: str, holding: bool) -> None:
        """Claim nothing of `queue` while `holding`. What is being published to it just now still goes."""
        if holding:
            self._held.add(queue)
        else:
            self._held.discard(queue)
            self._changed.set()

    async def run(self) -> None:
        """Release round after round; a fault waits a moment and is tried again."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                while await self.step():
                    pass
            except (DatabaseUnavailable, BrokerError) as error:
                log.warning("dispatch has to wait", extra={"error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()

    async def finish(self) -> None:
        """Begin nothing more; return when all that was claimed is confirmed or given back.

        Raises DatabaseUnavailable when Postgres is away: then the rescue has to find what is left.
        """
        self._finishing = True
        async with self._round:
            await self._unpublished.give_back()

    async def step(self) -> int:
        """Claim and publish once for every queue that has lanes and credit; return how many tasks were released."""
        async with self._round:
            await self._unpublished.give_back()
            released = 0
            for queue in sorted(self._lanes.queues(), key=lambda queue: self._failed.get(queue, 0.0)):
                epoch = self._leader.epoch
                if self._finishing or epoch is None or self._broker.state is not LinkState.OPEN:
                    return 0
                if queue not in self._held:
                    released += await self._dispatch_or_put_last(queue, epoch)
            return released

    async def _dispatch_or_put_last(self, queue: str, epoch: int) -> int:
        try:
            released = await self._dispatch(queue, epoch)
        except BrokerError:
            self._failed[queue] = time.monotonic()  # the others are not to wait for it
            raise
        self._failed.pop(queue, None)
        return released

    async def _dispatch(self, queue: str, epoch: int) -> int:
        while takes := self._turn(queue):
            await self._declare(queue)
            was_idle = self._credit.used(queue) < self._sessions.capacity(queue)
            with self._unpublished.watching(queue):
                claimed = await self._claim(queue, takes, epoch)
                if claimed and self._leader.epoch != epoch:
                    await self._give_back(claimed)  # frozen since the claim: another may have freed and released them
                    return 0
                if claimed:
                    await self._publish(queue, claimed)
            if claimed and was_idle:
                self._credit.probe(claimed[0].release.fence, time.monotonic())
            if claimed:
                return len(claimed)
        return 0  # what was asked for was not there any more, and nobody else has his turn

    def _turn(self, queue: str) -> list[Take]:
        """What each lane may give now: none when a live session of the queue does not know its kind."""
        knows = partial(self._sessions.known_by_all, queue)
        purse = FreeSlots(self._credit, queue, self._sessions.capacity(queue), knows)
        return self._lanes.turn(queue, purse, CLAIM_TASKS)

    async def _claim(self, queue: str, takes: Sequence[Take], epoch: int) -> list[Claimed]:
        """Claim, and forget the lanes that gave all they had."""
        began = time.perf_counter()
        marks = [self._lanes.mark(take.lane) for take in takes]
        batch = await store.claim(
            self._database.claim, epoch=epoch, holder=self._leader.holder, queue=queue, takes=takes
        )
        self._metrics.claimed(len(batch.tasks), time.perf_counter() - began)
        if batch.at is not None:
            self._unpublished.came_through(batch.at)
        taken = Counter(item.lane for item in batch.tasks)
        for take, mark in zip(takes, marks, strict=True):
            if taken[take.lane] < take.most and not batch.cut:
                self._lanes.drained(take.lane, mark)
        for kind, count in Counter(item.lane.kind for item in batch.tasks).items():
            self._credit.release(Flow(queue, kind), count)
        return [self._announced(item) for item in batch.tasks]

    async def _publish(self, queue: str, claimed: Sequence[Claimed]) -> None:
        messages = [
            Outgoing(self._topology.tasks.name, queue, RELEASES.name, encode(Releases(queue, releases)))
            for releases in self._packed(queue, claimed)
        ]
        try:
            await self._broker.publish(messages, seconds=PUBLISH_SECONDS)
        except BrokerError as error:
            self._metrics.publish_failed()
            if isinstance(error, Unroutable):  # somebody deleted it: the next round makes it again
                self._declared.discard(queue)
            nothing_sent = isinstance(error, BrokerUnavailable)
            await self._give_back(claimed if nothing_sent else self._may_run_twice(claimed))
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(self._may_run_twice(claimed)))
            raise
        self._metrics.dispatched(len(claimed), len(messages))

    def _announced(self, item: Claimed) -> Claimed:
        """What must not run twice is always announced: a run that nobody heard of would be released again."""
        if not self._runs_once(item):
            return item
        return item._replace(release=msgspec.structs.replace(item.release, announced=True))

    def _may_run_twice(self, claimed: Sequence[Claimed]) -> list[Claimed]:
        """Leave out what must not: the broker may have it, and only the rescue finds out that nobody does."""
        return [item for item in claimed if not self._runs_once(item)]

    def _runs_once(self, item: Claimed) -> bool:
        spec = self._sessions.spec(item.lane.queue, item.lane.kind)
        return spec is not None and (spec.on_lost == "fail" or (item.max_attempts or spec.max_attempts) <= 1)

    def _packed(self, queue: str, claimed: Sequence[Claimed]) -> Iterable[list[Release]]:
        """Cut into messages of one kind, in order. An announced release travels alone."""
        for (kind, announced), run in groupby(claimed, key=lambda item: (item.lane.kind, item.release.announced)):
            backlog = self._lanes.waits(queue, kind)
            most = 1 if announced else self._credit.per_message(queue, kind, backlog=backlog)
            yield from cut((item.release for item in run), _size, most=most)

    async def _give_back(self, claimed: Sequence[Claimed]) -> None:
        """Make them pending again, or cancelled when that was asked for; while Postgres is away, later."""
        await self._settler.apply([give_back(item.release.fence) for item in claimed])

    async def _declare(self, queue: str) -> None:
        if queue not in self._declared:
            await self._broker.declare(
                Declared(
                    exchanges=[self._topology.tasks, self._topology.dead],
                    queues=[self._topology.task_queue(queue)],
                    bindings=[self._topology.task_binding(queue)],
                )
            )
            self._declared.add(queue)


def _size(release: Release) -> int:
    return len(release.payload) + 200  # ids, times and trace context
