"""A manager's presence and a worker session, by themselves, on the in-process broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from tacoq_manager.presence import Presence
from tacoq_manager.sessions import Sessions
from tacoq_manager.store.engine import Database
from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Declared, Delivery, Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.messages import (
    AskHeld,
    Control,
    Fence,
    Heartbeat,
    Inventory,
    KindSpec,
    Register,
)
from tacoq_protocol.messages import Presence as PresenceMessage
from tacoq_protocol.topology import Binding, Queue, Topology, control_keys

TOPOLOGY = Topology("presence")
STARTED = datetime(2030, 1, 1, tzinfo=UTC)


class Listener:
    """A manager's presence, and what it told on."""

    def __init__(self, hub: MemoryHub, store: Database, name: str = "manager") -> None:
        self.id = uuid4()
        self.broker = MemoryBroker(hub, name)
        self.sessions = Sessions()
        self.changed: list[str] = []
        self.lost: list[tuple[UUID, str, str]] = []
        self.presence = Presence(
            self.broker,
            TOPOLOGY,
            store,
            self.sessions,
            manager=self.id,
            on_change=self.changed.append,
            on_lost=lambda *told: self.lost.append(told),
            on_manager=lambda _: None,
        )

    async def start(self) -> None:
        await self.broker.start()
        await self.presence.start()

    async def stop(self) -> None:
        await self.presence.stop()
        await self.broker.stop()


class Worker:
    """A session as the manager sees one: it speaks, and writes down what it is told."""

    def __init__(self, hub: MemoryHub, *, queue: str = "default", kinds: Sequence[str] = ("add",)) -> None:
        self.session = uuid4()
        self.queue = queue
        self.kinds = kinds
        self.broker = MemoryBroker(hub, "worker")
        self.heard: list[Control] = []
        self.holds: list[Fence] | None = None  # answered to `AskHeld`
        self._answers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.broker.start()
        await self.broker.declare(Declared(exchanges=TOPOLOGY.exchanges))
        bindings = [Binding(TOPOLOGY.control.name, "", key) for key in control_keys(str(self.session), self.queue)]
        await self.broker.consume(Consumer(Queue(exclusive=True), self._hear, bindings=bindings))

    def _hear(self, delivery: Delivery) -> None:
        delivery.ack()
        message = codec.decode_control(delivery.format, delivery.body)
        self.heard.append(message)
        if isinstance(message, AskHeld) and self.holds is not None:
            answer = asyncio.ensure_future(self.say(Inventory(self.session, self.queue, message.question, self.holds)))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)

    async def say(self, message: PresenceMessage) -> None:
        beat = Outgoing(TOPOLOGY.presence.name, "", codec.PRESENCE.name, codec.encode(message), mandatory=False)
        await self.broker.publish([beat], seconds=5)

    async def register(self) -> None:
        specs = [KindSpec(kind, max_attempts=7, payload_schema=b'{"type":"object"}') for kind in self.kinds]
        kinds_hash = "+".join(self.kinds)
        await self.say(Register(self.session, self.queue, 4, specs, kinds_hash, "host", 7, "0.1", STARTED))

    async def beat(self) -> None:
        await self.say(Heartbeat(self.session, self.queue, 4, 0, [], "+".join(self.kinds), "0.1"))
