"""A running system in; a session of a queue of its own that the test plays, report by report, out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

from tacoq_protocol import codec
from tacoq_protocol.broker import Broker, Consumer, Declared, Delivery, Outgoing
from tacoq_protocol.messages import (
    CancelRuns,
    Heartbeat,
    KindSpec,
    Leave,
    Presence,
    Register,
    Release,
    Report,
    Reports,
)
from tacoq_protocol.topology import Binding, Queue, Topology, control_keys
from tests.support.systems import System

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEAT_SECONDS = 2.0


class PlayedSession:
    """What came to the session, and its way to answer. It does nothing by itself but beat and ack."""

    def __init__(self, broker: Broker, topology: Topology, kind: str) -> None:
        self._broker = broker
        self._topology = topology
        self.id = uuid4()
        self.queue = kind
        self.spec = KindSpec(kind, max_attempts=10)
        self.came: asyncio.Queue[Release] = asyncio.Queue()
        self.cancels: set[UUID] = set()

    async def next(self, count: int = 1) -> list[Release]:
        """Return the next releases that come."""
        async with asyncio.timeout(20):
            return [await self.came.get() for _ in range(count)]

    async def report(self, *reports: Report) -> None:
        """Send one message of reports; confirmed when it returns."""
        await self.send(codec.encode(Reports(self.id, self.queue, list(reports))))

    async def send(self, body: bytes) -> None:
        """Send a message that says it is one of reports."""
        topology = self._topology
        message = Outgoing(topology.reports.name, topology.reports_queue.name, codec.REPORTS.name, body, True)
        await self._broker.publish([message], seconds=10)

    async def tell(self, message: Presence) -> None:
        body = codec.encode(message)
        await self._broker.publish(
            [Outgoing(self._topology.presence.name, "", codec.PRESENCE.name, body, mandatory=False)], seconds=10
        )

    async def begin(self, slots: int) -> None:
        """Declare the queue, listen, and register."""
        topology, queue = self._topology, self._topology.task_queue(self.queue)
        await self._broker.declare(
            Declared([topology.tasks, topology.dead], [queue, topology.dead_queue], [topology.task_binding(self.queue)])
        )
        bindings = [Binding(topology.control.name, "", key) for key in control_keys(str(self.id), self.queue)]
        await self._broker.consume(Consumer(Queue(exclusive=True), self._asked, bindings=bindings))
        await self._broker.consume(Consumer(queue, self._delivered))
        kinds, moment = [self.spec], datetime.now(UTC)
        await self.tell(Register(self.id, self.queue, slots, kinds, self.queue, "played", os.getpid(), "0", moment))

    async def beat(self, slots: int) -> None:
        while True:
            await self.tell(Heartbeat(self.id, self.queue, slots, 0, [], self.queue, "0"))
            await asyncio.sleep(BEAT_SECONDS)

    def _delivered(self, delivery: Delivery) -> None:
        delivery.ack()
        for release in codec.decode_releases(delivery.format, delivery.body).releases:
            self.came.put_nowait(release)

    def _asked(self, delivery: Delivery) -> None:
        delivery.ack()
        asked = codec.decode_control(delivery.format, delivery.body)
        if isinstance(asked, CancelRuns):
            self.cancels.update(asked.task_ids)


@asynccontextmanager
async def played(system: System, *, slots: int = 100) -> AsyncIterator[PlayedSession]:
    """Play a session that knows one kind, with a queue of the same name, both new. It leaves with the block."""
    broker = system.make_broker("played")
    await broker.start()
    await broker.wait_open(10)
    session = PlayedSession(broker, system.topology, f"played-{uuid4().hex[:8]}")
    await session.begin(slots)
    beating = asyncio.create_task(session.beat(slots))
    try:
        yield session
        await session.tell(Leave(session.id, session.queue))
    finally:
        beating.cancel()
        await broker.stop()
