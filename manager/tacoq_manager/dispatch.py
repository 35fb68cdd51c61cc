"""Dispatch: lanes and credit in, released tasks out: claimed in Postgres, published to RabbitMQ, confirmed.

Between the claim's commit and the publish nothing is lost by a crash: the rows are `queued` and nobody holds them,
which is what the rescue looks for. What a claim took whose answer is lost is given back first thing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial

from tacoq_manager.credit import Credit
from tacoq_manager.lanes import Lanes
from tacoq_manager.limiting import Limiting
from tacoq_manager.limits import Caps, Limits
from tacoq_manager.metrics import Metrics
from tacoq_manager.publish import PUBLISH_SECONDS, ReleasePublisher
from tacoq_manager.purse import Purse
from tacoq_manager.sessions import Sessions
from tacoq_manager.store import claim as store
from tacoq_manager.store.claim import Claimed, Flow, Lane, Line, Take
from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_manager.store.leader import Taken
from tacoq_manager.unpublished import Unpublished
from tacoq_manager.upkeep.leader import Leader
from tacoq_protocol.broker import Broker, LinkState
from tacoq_protocol.errors import BrokerError

log = logging.getLogger("tacoq.dispatch")

CLAIM_TASKS = 1_000  # at once; more wait for the next round
FINISH_SECONDS = PUBLISH_SECONDS + 2.0  # what is not confirmed by then has been given back
RETRY_SECONDS = 0.2
GATHER_SECONDS = 0.01  # tokens that come one by one go together


class Dispatcher:
    """Releases what may run, whenever something changed: work, credit, sessions, lead or link."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        publisher: ReleasePublisher,
        *,
        leader: Leader,
        sessions: Sessions,
        unpublished: Unpublished,
        lanes: Lanes,
        credit: Credit,
        limits: Limits,
        limiting: Limiting,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._broker = broker
        self._publisher = publisher
        self._leader = leader
        self._sessions = sessions
        self._lanes = lanes
        self._credit = credit
        self._limits = limits
        self._limiting = limiting
        self._metrics = metrics
        self._unpublished = unpublished
        self._round = asyncio.Lock()
        self._finishing = False
        self._changed = asyncio.Event()
        self._held: set[str] = set()
        self._failed: dict[str, float] = {}  # queues that the broker took nothing for, since when
        self._caps: dict[Flow, Caps] = {}  # by which keys of a kind were set aside
        self._opens_in: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def taken(self, taken: Taken) -> None:
        """This manager leads from now on."""
        self._unpublished.taken(taken)
        self._lanes.forget()  # others have taken from them

    def wake(self) -> None:
        """Something changed that may let a task run."""
        self._changed.set()

    def ended(self, lines: Iterable[Line]) -> None:
        """Fewer tasks of these are out."""
        for line in lines:
            self._lanes.open(line)
        self._changed.set()

    def limits_changed(self) -> None:
        """What a limit shut may be open."""
        self._lanes.open_all()
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

    def holds(self, queue: str) -> bool:
        """True while nothing of `queue` is claimed, by a `hold`."""
        return queue in self._held

    def refused(self, queue: str) -> bool:
        """True when the broker did not take what was last released to `queue`."""
        return queue in self._failed

    def is_open(self, queue: str) -> bool:
        """True when what is released to `queue` now is likely to be published at once."""
        return (
            not self._finishing
            and self._broker.state is LinkState.OPEN
            and self._publisher.has_declared(queue)
            and queue not in self._held
            and queue not in self._failed
            and self._unpublished.none
        )

    def put_last(self, queue: str) -> None:
        """The broker took nothing for `queue`: the others are not to wait for it."""
        self._failed[queue] = time.monotonic()

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
            self._open_lanes()
            released = 0
            for queue in sorted(self._lanes.queues(), key=lambda queue: self._failed.get(queue, 0.0)):
                epoch = self._leader.epoch
                if self._finishing or epoch is None or self._broker.state is not LinkState.OPEN:
                    return 0
                if queue not in self._held:
                    released += await self._dispatch_or_put_last(queue, epoch)
            self._wake_when_it_opens()
            return released

    def _open_lanes(self) -> None:
        """Let keys take turns again whose moment has come, or whose kind has other limits now than it had then."""
        self._opens_in = None
        self._lanes.open_due()
        for flow in self._lanes.flows_aside():
            caps = self._limits.caps(flow)
            if self._caps.setdefault(flow, caps) != caps:
                self._caps[flow] = caps
                self._lanes.open_all(flow)

    def _wake_when_it_opens(self) -> None:
        """A token comes, or a hold ends, by the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moments = [each for each in (self._opens_in, self._lanes.opens_in()) if each is not None]
        if moments:
            self._timer = asyncio.get_running_loop().call_later(max(min(moments), GATHER_SECONDS), self.wake)

    async def _dispatch_or_put_last(self, queue: str, epoch: int) -> int:
        try:
            released = await self._dispatch(queue, epoch)
        except BrokerError:
            self.put_last(queue)
            raise
        self._failed.pop(queue, None)
        return released

    async def _dispatch(self, queue: str, epoch: int) -> int:
        while True:
            was_idle = self._credit.used(queue) < self.capacity(queue)
            takes, purse = self._turn(queue)
            if not takes:
                return 0  # nobody has his turn, or what was asked for was not there any more
            with self._unpublished.watching(queue):
                claimed = await self._claim(queue, takes, purse, epoch)
            if claimed and self._leader.epoch != epoch:
                # It stood still since the claim: another may have freed and released them.
                await self._publisher.give_back(claimed)
                return 0
            if claimed:
                await self._publisher.publish(queue, claimed)
            if claimed and was_idle:
                self._credit.probe(claimed[0].release.fence, time.monotonic())
            if claimed:
                return len(claimed)

    def capacity(self, queue: str) -> int:
        return self._sessions.capacity(queue)

    def purse(self, queue: str) -> Purse:
        """What may be released to `queue` now: nothing of a kind that a live session of it does not know."""
        knows = partial(self._sessions.known_by_all, queue)
        return Purse(self._credit, self._limits, queue, slots=self._sessions.capacity(queue), may_run=knows)

    def _turn(self, queue: str) -> tuple[list[Take], Purse]:
        """What each lane may give now, and what that is reserved in."""
        purse = self.purse(queue)
        takes = self._lanes.turn(queue, purse, CLAIM_TASKS)
        for flow in self._lanes.flows_aside():
            self._caps.setdefault(flow, self._limits.caps(flow))
        moments = [each for each in (self._opens_in, purse.opens_in) if each is not None]
        self._opens_in = min(moments, default=None)
        return takes, purse

    async def _claim(self, queue: str, takes: Sequence[Take], purse: Purse, epoch: int) -> list[Claimed]:
        """Claim, and forget the lanes that gave all they had."""
        try:
            await self._publisher.declare(queue)
        except BaseException:
            self._settle(purse, Counter(), None)
            raise
        began = time.perf_counter()
        marks = [self._lanes.mark(take.lane) for take in takes]
        try:
            batch = await store.claim(
                self._database.claim,
                epoch=epoch,
                holder=self._leader.holder,
                limits=purse.version,
                queue=queue,
                takes=takes,
                rates=self._limits.rates({Flow(queue, take.lane.kind) for take in takes}),
            )
        except BaseException:
            purse.lose()
            raise
        self._metrics.claimed(len(batch.tasks), time.perf_counter() - began)
        taken = Counter(item.lane for item in batch.tasks)
        lines = Counter(item.lane.line for item in batch.tasks)
        self._settle(purse, lines, batch.at)
        if batch.at is not None:
            self._unpublished.came_through(batch.at)
        elif await self._limiting.outdated(purse.version):
            return []
        for take, mark in zip(takes, marks, strict=True):
            if taken[take.lane] < take.most and not batch.cut:
                self._lanes.drained(take.lane, mark)
        return batch.tasks

    def _settle(self, purse: Purse, taken: Counter[Line], at: datetime | None) -> None:
        """These were released of what was asked for."""
        purse.settle(taken, at)
        for line in purse.asked - taken:
            self._lanes.open(line)  # it may have been set aside over what it did not need
