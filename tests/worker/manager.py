"""The manager's side of the wire, for tests of a session: releases out, reports, presence and dead letters in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from tacoq_protocol.broker import Broker, BrokerFactory, Consumer, Declared, Delivery, Outgoing
from tacoq_protocol.codec import CONTROL, RELEASES, decode_presence, decode_reports, encode
from tacoq_protocol.errors import BrokerUnavailable
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Control, Fence, Outcome, Presence, Release, Releases, Report, Started
from tacoq_protocol.topology import Binding, Queue, Topology
from tacoq_worker.session import Session
from tacoq_worker.settings import Pace
from tacoq_worker.worker import Worker

P = TypeVar("P")
WAIT_SECONDS = 20.0
TOPOLOGY = Topology("test")
QUICK = Pace(beat=0.05, listed_after=0.1, retry_publish=0.05, publish_deadline=1.0, stop_runs=1.0, last_reports=2.0)


def make_release(kind: str, payload: bytes = b"{}", **fields: Any) -> Release:
    """A first release of a fresh task, unless `fields` say otherwise."""
    values: dict[str, Any] = {
        "task_id": new_task_id(),
        "release": 1,
        "attempt": 0,
        "created_at": datetime.now(UTC),
        **fields,
    }
    return Release(kind=kind, payload=payload, **values)


class FakeManager:
    """Publishes releases and keeps all that comes back."""

    def __init__(self, broker: Broker, topology: Topology, queue: str) -> None:
        self.broker = broker
        self.topology = topology
        self.queue = queue
        self.reports: list[Report] = []
        self.batches: list[list[Report]] = []
        self._outcomes: dict[Fence, list[Outcome]] = {}
        self.presence: list[Presence] = []
        self.dead: list[bytes] = []
        self._changed = asyncio.Event()

    async def start(self) -> None:
        topology = self.topology
        await self.broker.start()
        await self.broker.declare(
            Declared(
                exchanges=topology.exchanges,
                queues=[*topology.fixed_queues, topology.task_queue(self.queue)],
                bindings=[*topology.fixed_bindings, topology.task_binding(self.queue)],
            )
        )
        await self.broker.wait_open(WAIT_SECONDS)
        await self.broker.consume(Consumer(topology.reports_queue, self._reported))
        await self.broker.consume(Consumer(topology.dead_queue, self._died))
        await self.broker.consume(
            Consumer(Queue(exclusive=True), self._seen, bindings=[Binding(topology.presence.name, "")])
        )

    async def publish(self, *releases: Release) -> None:
        """All in one message."""
        await self.publish_raw(encode(Releases(self.queue, list(releases))))

    async def publish_raw(self, body: bytes, format: str = RELEASES.name) -> None:
        message = Outgoing(self.topology.tasks.name, self.queue, format, body)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    return await self.broker.publish([message], seconds=5)
                except BrokerUnavailable:
                    await asyncio.sleep(0.01)  # as the dispatcher: nothing was sent, so send it later

    async def run(self, kind: str, payload: bytes = b"{}", **fields: Any) -> Outcome:
        """Release one task and return its outcome."""
        release = make_release(kind, payload, **fields)
        await self.publish(release)
        return await self.outcome(release)

    async def outcome(self, release: Release) -> Outcome:
        await self.until(lambda: bool(self.outcomes(release)))
        return self.outcomes(release)[0]

    def outcomes(self, release: Release) -> list[Outcome]:
        return self._outcomes.get(release.fence, [])

    def started(self, release: Release) -> bool:
        return any(isinstance(r, Started) and _fence(r) == release.fence for r in self.reports)

    async def control(self, session: UUID, control: Control) -> None:
        key = f"session.{session}"
        message = Outgoing(self.topology.control.name, key, CONTROL.name, encode(control))
        await self.broker.publish([message], seconds=5)

    async def seen(self, type: type[P], where: Callable[[P], bool] = lambda _: True) -> P:
        """Wait for a presence message of this type."""
        await self.until(lambda: any(isinstance(m, type) and where(m) for m in self.presence))
        return next(m for m in self.presence if isinstance(m, type) and where(m))

    async def ready_messages(self) -> int | None:
        return await self.broker.message_count(self.topology.task_queue_name(self.queue))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; looked at whenever something arrives, and now and then."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                self._changed.clear()
                try:
                    async with asyncio.timeout(0.01):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    def _reported(self, delivery: Delivery) -> None:
        message = decode_reports(delivery.format, delivery.body)
        self.batches.append(message.reports)
        self.reports += message.reports
        for report in message.reports:
            if not isinstance(report, Started):
                self._outcomes.setdefault(_fence(report), []).append(report)
        delivery.ack()
        self._changed.set()

    def _seen(self, delivery: Delivery) -> None:
        self.presence.append(decode_presence(delivery.format, delivery.body))
        delivery.ack()
        self._changed.set()

    def _died(self, delivery: Delivery) -> None:
        self.dead.append(delivery.body)
        delivery.ack()
        self._changed.set()


def _fence(report: Report) -> Fence:
    return Fence(report.task_id, report.release)


@asynccontextmanager
async def playing(
    worker: Worker, make_broker: BrokerFactory, *, topology: Topology = TOPOLOGY, pace: Pace = QUICK
) -> AsyncIterator[tuple[Session, FakeManager]]:
    """A session at work, and the manager's side of it."""
    manager = FakeManager(make_broker("manager"), topology, worker.queue)
    await manager.start()
    session = Session(worker, make_broker, topology, pace=pace)
    await session.start()
    try:
        yield session, manager
    finally:
        await session.stop()
        await manager.broker.stop()
