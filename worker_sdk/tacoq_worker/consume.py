"""Consume: deliveries in, releases to slots; acked when the reports of all its releases are confirmed.

Here, and for long runs in `early_ack`, is a task message acked, and nowhere else. What RabbitMQ gives a second
time is never simply run: if this session holds the release it goes on, and the new delivery waits for the same
report; else it is handed back, for another session may run it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from uuid import UUID

from tacoq_protocol.broker import Broker, Consumer, Consuming, Delivery
from tacoq_protocol.codec import decode_releases
from tacoq_protocol.errors import DecodeError
from tacoq_protocol.messages import Cancelled, Fence, Outcome, Release, Returned, ReturnReason
from tacoq_protocol.topology import Queue
from tacoq_worker.early_ack import EarlyAcks
from tacoq_worker.execute import CANCELLED_ON_REQUEST, Stop
from tacoq_worker.held import Held, Message, Phase
from tacoq_worker.registry import Registry
from tacoq_worker.report import Reporter
from tacoq_worker.slots import Slots

log = logging.getLogger("tacoq.worker")

MAX_EARLY_CANCELS = 10_000
AGAIN_SECONDS = 1.0  # for lost messages to come again, once there is a consumer


class Intake:
    """All that the session holds, by fence, and the one consumer it comes from."""

    def __init__(
        self,
        broker: Broker,
        queue: Queue,
        registry: Registry,
        slots: Slots,
        reporter: Reporter,
        *,
        prefetch: int,
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._registry = registry
        self._slots = slots
        self._reporter = reporter
        self._cancels = _EarlyCancels()
        self._consuming: Consuming | None = None
        self._closed = self._paused = False
        self.held: dict[Fence, Held] = {}
        self._early = EarlyAcks(prefetch, self.held, consuming=lambda: self._consuming)
        self.taken = 0  # messages, ever
        self._lost_at = 0.0  # monotonic: when messages were lost, or could last not come again

    async def start(self) -> None:
        """Consume from now on, unless `stop` came before, or comes meanwhile."""
        if not self._closed:
            consumer = Consumer(self._queue, self._delivered, self._early.begin(), on_lost=self._lost)
            self._consuming = await self._broker.consume(consumer)
            self._early.look()  # runs may have ended while it was opened
        if self._closed and self._consuming is not None:
            await self._consuming.stop()

    @property
    def active(self) -> bool:
        """True while the broker would give it releases."""
        return self._consuming is not None and self._consuming.active

    def pause(self) -> None:
        """Take no more until `resume`. What no slot has taken is handed back, and what is on its way."""
        self._paused = True
        self._early.pause(True)
        self.hand_back(self._slots.waiting(), ReturnReason.DRAINING)

    def resume(self) -> None:
        """Take releases again."""
        self._paused = False
        self._early.pause(False)

    async def stop(self) -> None:
        """Take no more; what was delivered can still be acked."""
        self._closed = True
        if self._consuming is not None:
            await self._consuming.stop()
        self._early.stop()

    async def close(self) -> None:
        """Give what is not acked back to the broker."""
        self._closed = True
        if self._consuming is not None:
            await self._consuming.close()

    async def rebuild(self) -> None:
        """Consume anew. What is held runs on; the broker gives it again, and it is taken over then."""
        if self._closed or self._consuming is None:
            return
        consuming, self._consuming = self._consuming, None  # so that a second rebuild does nothing
        await consuming.close()
        self._lost()
        await self.start()

    def confirmed(self, ended: Sequence[Held]) -> None:
        """The broker has these releases' reports: let go of them, and ack what waited for nothing else."""
        # Reported but not acked is safe: the redelivery is stale. Acked but not reported loses the outcome.
        for held in ended:
            del self.held[held.fence]
            for message in held.messages:
                message.unconfirmed -= 1
                if message.unconfirmed == 0:
                    message.held.clear()  # they know each other: nothing else would free them but the collector
                    message.delivery.ack()
        if self._early.watching:
            self._early.ended(ended)

    def ack_early(self, runs: Iterable[Held]) -> None:
        """Ack the messages of these runs, if the start or the outcome of each release in them is confirmed."""
        for message in {message for held in runs for message in held.messages if not message.lost}:
            self.hand_back(message.held, ReturnReason.SLOW)
            if all(held.start_confirmed or self.held.get(held.fence) is not held for held in message.held):
                self._early.ack(message)

    def message_lost(self, runs: Iterable[Held], now: float) -> None:
        """The broker has back the messages of these runs, and they may come again for a moment.

        Then others have them, and hand them back: that frees no slot here. Without this a session would take new
        releases for slots that it has not, and hold them for as long as the runs last.
        """
        if not self.active:
            self._lost_at = now
        elif now - self._lost_at > AGAIN_SECONDS:
            self._early.missing(runs)
            self.hand_back(self._slots.waiting(), ReturnReason.SLOW)  # came meanwhile, for those slots

    def hand_back(self, held: Iterable[Held], reason: ReturnReason) -> None:
        """Return those that no slot has taken."""
        for one in held:
            if one.phase is Phase.WAITING:
                self._reporter.outcome(one, _returned(one.release, reason))

    def cancel(self, task_ids: Iterable[UUID]) -> None:
        """Stop these tasks' runs; what waits will not run, nor will what is not here yet when it comes."""
        wanted = set(task_ids)
        seen: set[UUID] = set()
        for held in list(self.held.values()):
            if held.release.task_id in wanted:
                seen.add(held.release.task_id)
                if held.phase is Phase.WAITING:
                    self._reporter.outcome(held, _cancelled(held.release))
                elif held.phase is Phase.RUNNING and not _stops(held):
                    self._slots.interrupt(held, Stop.CANCEL)
        for task_id in wanted - seen:
            self._cancels.keep(task_id)

    def _delivered(self, delivery: Delivery) -> None:
        self.taken += 1
        try:
            releases = decode_releases(delivery.format, delivery.body).releases
        except DecodeError as error:
            log.error("task message refused", extra={"reason": str(error), "bytes": len(delivery.body)})
            delivery.reject()
            return
        message = Message(delivery)
        to_run: list[Held] = []
        for release in releases:
            fence = release.fence
            held = self.held.get(fence)
            if held is None:
                held = self.held[fence] = Held(release, self._registry.get(release.kind), fence)
                refusal = self._refusal(held, redelivered=delivery.redelivered)
                held.arrived_in(message)
                if refusal is None:
                    to_run.append(held)
                else:
                    self._reporter.outcome(held, refusal)
            elif message not in held.messages:
                held.messages = [earlier for earlier in held.messages if not earlier.lost]
                held.arrived_in(message)
                self._early.came_again(held)
        if message.unconfirmed == 0:  # a message without releases
            delivery.ack()
        self._slots.offer(to_run)

    def _lost(self) -> None:
        """The broker has back what is not acked."""
        self._lost_at = time.monotonic()
        for held in self.held.values():
            for message in held.messages:
                message.lost = True
        self._early.lost()

    def _refusal(self, held: Held, *, redelivered: bool) -> Outcome | None:
        """Say why a release that just came must not run."""
        release = held.release
        if redelivered:
            return _returned(release, ReturnReason.REDELIVERED)
        if self._cancels.take(release.task_id):
            return _cancelled(release)
        if self._closed:
            return _returned(release, ReturnReason.SHUTDOWN)
        if self._paused:
            return _returned(release, ReturnReason.DRAINING)
        if held.handler is None:
            log.warning("release of an unknown kind handed back", extra={"kind": release.kind})
            return _returned(release, ReturnReason.UNKNOWN_KIND)
        return None


class _EarlyCancels:
    """Cancels that came before their release did. The oldest are forgotten: the manager knows them too."""

    def __init__(self) -> None:
        self._ids: dict[UUID, None] = {}

    def keep(self, task_id: UUID) -> None:
        self._ids[task_id] = None
        if len(self._ids) > MAX_EARLY_CANCELS:
            del self._ids[next(iter(self._ids))]

    def take(self, task_id: UUID) -> bool:
        return bool(self._ids) and self._ids.pop(task_id, self) is None


def _stops(held: Held) -> bool:
    """True once its run was told to stop: managers ask again, which must not break into its cleaning up."""
    return held.run is not None and held.run.stop is not None


def _returned(release: Release, reason: ReturnReason) -> Returned:
    return Returned(release.task_id, release.release, reason)


def _cancelled(release: Release) -> Cancelled:
    return Cancelled(release.task_id, release.release, None, 0.0, CANCELLED_ON_REQUEST)
