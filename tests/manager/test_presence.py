"""Presence over the in-process broker and a real registry: who lives is known, asked, told on and written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from tacoq_manager import registrar
from tacoq_manager.sessions import LEASE_SECONDS
from tacoq_manager.store import limits, registry
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_manager.upkeep import retention
from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Delivery
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.limits import KindLimits
from tacoq_protocol.messages import (
    Introduce,
    KindSpec,
    Leave,
    Lost,
    ManagerBeat,
    Register,
)
from tacoq_protocol.topology import Binding, Queue
from tests.manager.sessions import STARTED, TOPOLOGY, Listener, Worker
from tests.support import eventually


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


async def test_what_is_long_out_of_use_is_forgotten(store: Database) -> None:
    """Sessions that ended, by the retention; kinds a month after their last registration, unless somebody has them or
    limits are set for them.
    """
    now, year = datetime.now(UTC), timedelta(days=365)
    live, left, just_left = (uuid4() for _ in range(3))
    of_session = {live: ["used"], left: ["unused", "limited"], just_left: ["mistyped"]}
    await registry.register(
        store,
        [
            Register(session, "slow", 4, [KindSpec(name) for name in names], "h", "host", 7, "0.1", STARTED)
            for session, names in of_session.items()
        ],
    )
    await registry.end(store, {left: ("left", None)})
    await limits.set_kind(store, Flow("slow", "limited"), lambda _: KindLimits(concurrency=1))
    await retention.step(store, retention=timedelta(days=1))
    assert len(await registry.list_workers(store)) == 3
    assert len(await registry.list_kinds(store)) == 4

    await retention.step(store, retention=year, now=now + timedelta(days=29))
    assert len(await registry.list_kinds(store)) == 4
    await registry.end(store, {just_left: ("left", None)})
    await retention.step(store, retention=year, now=now + timedelta(days=31))
    assert [kind.spec.name for kind in await registry.list_kinds(store)] == ["limited", "used"]
    assert len(await registry.list_workers(store)) == 3
    await retention.step(store, retention=timedelta(days=30), now=now + timedelta(days=31))
    assert [row.session for row in await registry.list_workers(store)] == [live]


async def test_kind_that_is_being_registered_is_not_forgotten(store: Database) -> None:
    session = Register(uuid4(), "slow", 4, [KindSpec("old")], "h", "host", 7, "0.1", STARTED)
    await registry.register(store, [session])
    await registry.end(store, {session.session: ("left", None)})
    async with store.engine.begin() as registering:
        await registering.execute(text("UPDATE kinds SET seen_at = now()"))
        day, now = timedelta(days=1), datetime.now(UTC)
        assert await registry.forget(store, sessions=now - day, kinds_seen=now + day) == 0
    assert len(await registry.list_kinds(store)) == 1


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
