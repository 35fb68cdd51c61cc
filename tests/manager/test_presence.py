"""Presence over the in-process broker and a real registry: who lives is known, asked, told on and written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tacoq_manager import registrar
from tacoq_manager.presence import Presence
from tacoq_manager.sessions import LEASE_SECONDS, Sessions
from tacoq_manager.store import registry
from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Declared, Delivery, Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.messages import (
    AskHeld,
    Control,
    Drain,
    Fence,
    Heartbeat,
    Introduce,
    Inventory,
    KindSpec,
    Leave,
    Lost,
    ManagerBeat,
    Register,
)
from tacoq_protocol.messages import Presence as PresenceMessage
from tacoq_protocol.topology import Binding, Queue, Topology, control_keys
from tests.support import eventually

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


@pytest_asyncio.fixture
async def hub() -> MemoryHub:
    return MemoryHub()


@pytest_asyncio.fixture
async def manager(hub: MemoryHub, store: Database) -> AsyncIterator[Listener]:
    listener = Listener(hub, store)
    await listener.start()
    await eventually(lambda: listener.sessions.steady_since is not None)
    yield listener
    await listener.stop()


@pytest_asyncio.fixture
async def worker(hub: MemoryHub, manager: Listener) -> AsyncIterator[Worker]:
    worker = Worker(hub)
    await worker.start()
    yield worker
    await worker.broker.stop()


async def states(store: Database) -> dict[UUID, tuple[str, str | None]]:
    return {row.session: (row.state, row.detail) for row in await registry.list_workers(store)}


async def test_a_registration_is_known_at_once_told_on_and_written_down(
    manager: Listener, worker: Worker, store: Database
) -> None:
    await worker.register()
    await eventually(lambda: manager.sessions.known_by_all("default", "add"))
    assert manager.changed == ["default"]

    async def written() -> bool:
        return worker.session in await states(store)

    await eventually(written)
    (row,) = await registry.list_workers(store)
    assert (row.state, row.queue, row.kinds, row.slots, row.host) == ("live", "default", ["add"], 4, "host")
    (kind,) = await registry.list_kinds(store)
    assert kind.spec.max_attempts == 7
    assert kind.spec.payload_schema == b'{"type":"object"}'
    assert await registry.list_queues(store) == ["default"]


async def test_a_manager_that_starts_asks_all_to_introduce_themselves(
    hub: MemoryHub, manager: Listener, worker: Worker, store: Database
) -> None:
    late = Listener(hub, store, "late")
    await late.start()
    await eventually(lambda: any(isinstance(message, Introduce) for message in worker.heard))
    await late.stop()


async def test_a_stranger_that_beats_is_asked_to_introduce_itself(manager: Listener, worker: Worker) -> None:
    await worker.beat()
    await eventually(lambda: worker.heard == [Introduce()])
    assert manager.sessions.is_live(worker.session)
    await worker.register()
    await worker.beat()
    await eventually(lambda: manager.sessions.known_by_all("default", "add"))


async def test_kinds_of_before_are_known_from_the_registry(hub: MemoryHub, store: Database) -> None:
    await registry.register(
        store, [Register(uuid4(), "slow", 4, [KindSpec("old", on_lost="fail")], "h", "host", 7, "0.1", STARTED)]
    )
    listener = Listener(hub, store)
    await listener.start()
    assert listener.sessions.spec("slow", "old") == KindSpec("old", on_lost="fail")
    assert listener.sessions.queue_of_kind("old") == "slow"
    await listener.stop()


async def test_a_session_that_leaves_is_gone_without_a_loss(manager: Listener, worker: Worker, store: Database) -> None:
    await worker.register()
    await worker.say(Leave(worker.session, "default"))
    await eventually(lambda: len(manager.changed) == 2)
    assert not manager.sessions.is_live(worker.session)
    assert manager.lost == []

    async def written() -> bool:
        return (await states(store)).get(worker.session) == ("left", None)

    await eventually(written)


async def test_a_dead_process_is_a_loss_at_once_with_the_reason(
    manager: Listener, worker: Worker, store: Database
) -> None:
    await worker.register()
    await worker.say(Lost(worker.session, "default", "killed by SIGKILL"))
    await eventually(lambda: manager.lost == [(worker.session, "default", "killed by SIGKILL")])
    assert not manager.sessions.is_live(worker.session)

    async def written() -> bool:
        return (await states(store)).get(worker.session) == ("lost", "killed by SIGKILL")

    await eventually(written)


async def test_a_dead_process_that_was_never_heard_is_a_loss_too(manager: Listener, worker: Worker) -> None:
    await worker.say(Lost(worker.session, "default", "exit code 3"))
    await eventually(lambda: manager.lost == [(worker.session, "default", "exit code 3")])


async def test_a_lease_that_runs_out_is_a_loss(manager: Listener, worker: Worker) -> None:
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    now = time.monotonic()
    manager.sessions._steady_since = now - LEASE_SECONDS - 2
    manager.sessions._live[worker.session].last_seen = now - LEASE_SECONDS - 1
    assert manager.presence.tick() == 1
    assert manager.lost == [(worker.session, "default", "no heartbeat for 10 s")]


async def test_the_registry_is_written_when_postgres_is_back_and_memory_never_waits(
    manager: Listener, worker: Worker, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = True
    write = registry.register

    async def register(database: Database, sessions: Sequence[Register]) -> None:
        if away:
            raise DatabaseUnavailable("away")
        await write(database, sessions)

    monkeypatch.setattr(registry, "register", register)
    monkeypatch.setattr(registrar, "RETRY_SECONDS", 0.01)
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    await worker.say(Lost(worker.session, "default", "gone"))
    await eventually(lambda: manager.lost)
    assert await states(store) == {}
    away = False

    async def written() -> bool:
        return (await states(store)).get(worker.session) == ("lost", "gone")

    await eventually(written)


async def test_sessions_that_ended_while_nobody_listened_are_written_down_as_lost(
    manager: Listener, worker: Worker, store: Database
) -> None:
    forgotten = uuid4()
    await registry.register(store, [Register(forgotten, "default", 4, [], "", "host", 7, "0.1", STARTED)])
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    manager.presence.tick()
    await manager.presence.registrar.step()
    assert (await states(store))[forgotten][0] == "live"
    manager.sessions._steady_since = time.monotonic() - LEASE_SECONDS - 1
    manager.presence.tick()

    async def written() -> bool:
        return (await states(store))[forgotten][0] == "lost"

    await eventually(written)
    assert (await states(store))[worker.session][0] == "live"


async def test_a_session_that_postgres_does_not_take_keeps_no_other_from_being_written(
    manager: Listener, worker: Worker, store: Database
) -> None:
    odd = Register(uuid4(), "default", 4, [], "", "host\0", 7, "0.1", STARTED)
    manager.presence.registrar.registered(odd)
    await worker.register()

    async def written() -> bool:
        return worker.session in await states(store)

    await eventually(written)
    assert odd.session not in await states(store)


async def test_an_inventory_is_what_every_live_session_holds(hub: MemoryHub, manager: Listener, worker: Worker) -> None:
    other, elsewhere = Worker(hub), Worker(hub, queue="other")
    for each in (other, elsewhere):
        await each.start()
    fences = [Fence(uuid4(), 1), Fence(uuid4(), 2)]
    worker.holds, other.holds = fences, []
    for each in (worker, other, elsewhere):
        await each.register()
    await eventually(lambda: len(manager.sessions.live()) == 3)
    answer = await manager.presence.inventory("default", 5)
    assert answer == {worker.session: frozenset(fences), other.session: frozenset()}
    for each in (other, elsewhere):
        await each.broker.stop()


async def test_an_inventory_that_not_all_answer_is_none(hub: MemoryHub, manager: Listener, worker: Worker) -> None:
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    assert await manager.presence.inventory("default", 0.1) is None
    assert not manager.presence._questions


async def test_an_inventory_does_not_wait_for_one_that_died_meanwhile(manager: Listener, worker: Worker) -> None:
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    asking = asyncio.create_task(manager.presence.inventory("default", 30))
    await eventually(lambda: any(isinstance(message, AskHeld) for message in worker.heard))
    await worker.say(Lost(worker.session, "default", "gone"))
    assert await asking == {}


async def test_an_inventory_waits_for_one_that_registered_meanwhile(
    hub: MemoryHub, manager: Listener, worker: Worker
) -> None:
    worker.holds = []
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    newcomer = Worker(hub)
    await newcomer.start()
    await newcomer.register()  # heard before any answer: it was said before the question
    assert await manager.presence.inventory("default", 0.2) is None
    await newcomer.broker.stop()


async def test_an_inventory_without_sessions_is_empty_and_without_a_broker_none(
    hub: MemoryHub, manager: Listener
) -> None:
    assert await manager.presence.inventory("default", 5) == {}
    hub.block()
    assert await manager.presence.inventory("default", 5) is None


async def test_messages_reach_sessions_by_key(hub: MemoryHub, manager: Listener, worker: Worker) -> None:
    other = Worker(hub, queue="other")
    await other.start()
    assert await manager.presence.send("queue.default", Drain())
    assert await manager.presence.send(f"session.{other.session}", Introduce())
    assert await manager.presence.send(f"session.{uuid4()}", Drain())  # nobody there is no fault
    await eventually(lambda: worker.heard == [Drain()] and other.heard == [Introduce()])
    hub.go_down()
    await eventually(lambda: manager.broker.state == "closed")
    assert not await manager.presence.send("all", Drain())
    await other.broker.stop()


async def test_messages_that_cannot_be_read_do_not_deafen(manager: Listener, worker: Worker) -> None:
    for format, body in ((codec.PRESENCE.name, b"\xc1"), ("presence/9", b"")):
        await worker.broker.publish([Outgoing(TOPOLOGY.presence.name, "", format, body)], seconds=5)
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))


async def test_managers_see_each_other(hub: MemoryHub, manager: Listener, store: Database) -> None:
    now = time.monotonic
    assert not manager.sessions.other_managers(now())
    other = Listener(hub, store, "other")
    await other.start()
    await eventually(lambda: manager.sessions.other_managers(now()))
    await other.stop()


async def test_leases_stand_still_while_the_link_is_blocked_or_gone_and_run_again_after(
    hub: MemoryHub, manager: Listener
) -> None:
    hub.block()
    await eventually(lambda: manager.sessions.steady_since is None)
    hub.unblock()
    await eventually(lambda: manager.sessions.steady_since is not None)
    hub.go_down()
    await eventually(lambda: manager.sessions.steady_since is None)
    hub.come_up()
    await eventually(lambda: manager.sessions.steady_since is not None)


async def test_a_session_that_beats_after_a_reconnect_is_heard(
    hub: MemoryHub, manager: Listener, worker: Worker
) -> None:
    hub.disconnect("manager")

    async def heard() -> bool:
        await worker.beat()
        await asyncio.sleep(0)
        return manager.sessions.is_live(worker.session)

    await eventually(heard)


async def test_a_beat_is_one_of_its_own(hub: MemoryHub, manager: Listener) -> None:
    passed: list[Delivery] = []
    broker = MemoryBroker(hub, "tap")
    await broker.start()
    await broker.consume(Consumer(Queue(exclusive=True), passed.append, bindings=[Binding(TOPOLOGY.presence.name, "")]))
    assert await manager.presence.beat()
    await eventually(lambda: passed)
    assert codec.decode_presence(passed[0].format, passed[0].body) == ManagerBeat(manager.id)
    await broker.stop()
