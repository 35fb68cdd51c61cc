"""What managers hear of a session, also while its event loop is blocked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import pytest

from tacoq_protocol.broker import BrokerFactory, Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.errors import PublishUnconfirmed
from tacoq_protocol.messages import Heartbeat, Introduce, Leave, Register
from tacoq_worker import Worker
from tests.worker.manager import TOPOLOGY, FakeManager, make_release, playing


def make_worker() -> tuple[Worker, asyncio.Event]:
    worker = Worker("presence", concurrency=3)
    go_on = asyncio.Event()

    @worker.task(max_attempts=7)
    async def wait() -> None:
        await go_on.wait()

    @worker.task
    async def block(seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 (what it should not do)

    return worker, go_on


def last_beat(manager: FakeManager) -> Heartbeat:
    return [m for m in manager.presence if isinstance(m, Heartbeat)][-1]


async def test_a_session_registers_before_it_beats_and_leaves_last(make_broker: BrokerFactory) -> None:
    worker, _ = make_worker()
    async with playing(worker, make_broker) as (session, manager):
        beat = await manager.seen(Heartbeat)
        assert await session.stop()
        await manager.seen(Leave)
        register = manager.presence[0]
        assert isinstance(register, Register)
        assert (register.session, register.queue, register.slots) == (session.id, "presence", 3)
        assert [(kind.name, kind.max_attempts) for kind in register.kinds] == [("block", 3), ("wait", 7)]
        assert (register.pid, register.kinds_hash) == (os.getpid(), beat.kinds_hash)
        assert beat.rss_bytes is not None
        assert beat.rss_bytes > 1_000_000
        assert isinstance(manager.presence[-1], Leave)


class Unheard(MemoryBroker):
    """The link that tells of presence; nobody confirms anything on it until `heard`."""

    tries = 0
    heard = False

    async def publish(self, messages: Sequence[Outgoing], *, seconds: float) -> None:
        type(self).tries += 1
        if not self.heard:
            raise PublishUnconfirmed("nobody answers")
        await super().publish(messages, seconds=seconds)


@pytest.fixture
def unheard() -> type[Unheard]:
    return type("Unheard", (Unheard,), {})  # the session makes it: what a test must reach is kept in the class


def on(hub: MemoryHub, unheard: type[Unheard]) -> BrokerFactory:
    return lambda name: (unheard if "heartbeat" in name else MemoryBroker)(hub, name)


async def test_no_release_is_taken_before_the_registration_is_confirmed(hub: MemoryHub, unheard: type[Unheard]) -> None:
    worker, go_on = make_worker()
    go_on.set()
    async with playing(worker, on(hub, unheard)) as (session, manager):
        release = make_release("wait")
        await manager.publish(release)
        await manager.until(lambda: unheard.tries > 3)
        assert await manager.ready_messages() == 1
        assert not session._intake.active
        unheard.heard = True
        await manager.outcome(release)
        assert session._intake.active


async def test_a_drain_before_the_registration_ends_a_session_that_took_nothing(
    hub: MemoryHub, unheard: type[Unheard]
) -> None:
    worker, _ = make_worker()
    async with playing(worker, on(hub, unheard)) as (session, manager):
        await manager.publish(make_release("wait"))
        await manager.until(lambda: unheard.tries > 0)
        draining = asyncio.create_task(session.drain(30.0))
        unheard.heard = True
        assert await draining
        assert await manager.ready_messages() == 1
        assert not manager.reports


async def test_a_registration_for_a_manager_that_asks_leaves_the_consumer_alone(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    worker, _ = make_worker()
    async with playing(worker, make_broker) as (session, manager):
        queue = hub._queues[TOPOLOGY.task_queue_name(worker.queue)]
        await manager.until(lambda: session._intake.active)
        before = list(queue.taps)
        await manager.control(session.id, Introduce())
        await manager.until(lambda: sum(isinstance(m, Register) for m in manager.presence) == 2)
        beats = len(manager.presence)
        await manager.until(lambda: len(manager.presence) > beats + 2)
        assert list(queue.taps) == before


async def test_beats_list_what_runs_for_long(make_broker: BrokerFactory) -> None:
    worker, go_on = make_worker()
    async with playing(worker, make_broker) as (_, manager):
        release = make_release("wait")
        await manager.publish(release)
        beat = await manager.seen(Heartbeat, lambda beat: bool(beat.running))
        assert (beat.running, beat.held) == ([release.fence], 1)
        go_on.set()
        await manager.until(lambda: last_beat(manager).held == 0)


async def test_beats_count_the_messages_that_were_taken(make_broker: BrokerFactory) -> None:
    """By this managers tell a session that is deaf from one that has nothing to do."""
    worker, go_on = make_worker()
    go_on.set()
    async with playing(worker, make_broker) as (_, manager):
        assert (await manager.seen(Heartbeat)).taken == 0
        for taken in (1, 2):
            await manager.run("wait")
            await manager.seen(Heartbeat, lambda beat, taken=taken: beat.taken == taken)  # type: ignore[misc]


async def test_what_only_waits_for_its_confirm_is_listed_too(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    worker, go_on = make_worker()
    async with playing(worker, make_broker) as (session, manager):
        release = make_release("wait")
        await manager.publish(release)
        await manager.seen(Heartbeat, lambda beat: beat.running == [release.fence])
        hub.freeze()
        go_on.set()
        await manager.until(lambda: not session._slots.running())
        assert session._heartbeat._beat().running == [release.fence]
        hub.thaw()
        await manager.outcome(release)


async def test_a_blocked_loop_beats_on_and_says_so(make_broker: BrokerFactory) -> None:
    # The manager's side shares the blocked loop: it reads afterwards what came meanwhile.
    worker, _ = make_worker()
    async with playing(worker, make_broker) as (_, manager):
        await manager.seen(Heartbeat)
        seen = len(manager.presence)
        release = make_release("block", b'{"seconds": 0.7}')
        await manager.publish(release)
        await manager.outcome(release)
        await manager.until(lambda: len(manager.presence) > seen + 5)
        blocked = [m for m in manager.presence[seen:] if isinstance(m, Heartbeat) and m.loop_blocked]
        assert len(blocked) > 5
        assert blocked[-1].running == [release.fence]
        await manager.until(lambda: not last_beat(manager).loop_blocked)


async def test_a_session_introduces_itself_again_when_asked(make_broker: BrokerFactory) -> None:
    worker, _ = make_worker()
    async with playing(worker, make_broker) as (session, manager):
        await manager.seen(Heartbeat)
        await manager.control(session.id, Introduce())
        await manager.until(lambda: sum(isinstance(m, Register) for m in manager.presence) == 2)


async def test_presence_comes_back_after_the_broker_was_away(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    worker, _ = make_worker()
    async with playing(worker, make_broker) as (session, manager):
        await manager.seen(Heartbeat)
        hub.disconnect(f"tacoq heartbeat {session.id}")
        seen = len(manager.presence)
        await manager.until(lambda: len(manager.presence) > seen + 3)


async def test_a_beat_that_cannot_be_made_is_not_the_last(
    make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker, _ = make_worker()
    async with playing(worker, make_broker) as (session, manager):
        await manager.seen(Heartbeat)
        with monkeypatch.context() as patch:
            patch.setattr(session._heartbeat, "_beat", lambda: 1 / 0)
            await manager.until(lambda: "heartbeat failed" in caplog.text)
        seen = len(manager.presence)
        await manager.until(lambda: len(manager.presence) > seen + 1)
        assert await session.stop()
        await manager.seen(Leave)
