"""What the broker gives twice, or gives to somebody else: taken over, handed back, never run twice."""

from __future__ import annotations

import asyncio

import pytest

from tacoq_protocol.broker import BrokerFactory, Consumer
from tacoq_protocol.brokers.memory import MemoryHub
from tacoq_protocol.messages import AskHeld, Completed, Inventory, Rebuild, Returned, ReturnReason
from tacoq_worker.session import Session
from tacoq_worker.settings import Pace
from tests.support.eventually import eventually, others_ran
from tests.worker.gate import Gate, broker_holds, disconnect
from tests.worker.manager import TOPOLOGY, FakeManager, make_release, playing


async def test_a_redelivery_of_what_runs_is_taken_over(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        release = make_release("wait")
        await manager.publish(release)
        await manager.until(lambda: gate.entered == 1)
        (lost,) = session._intake.held[release.fence].messages
        disconnect(hub, session)
        await manager.until(lambda: session._intake.held[release.fence].messages != [lost])
        assert broker_holds(hub, manager) == 1
        gate.open.set()
        assert isinstance(await manager.outcome(release), Completed)
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert gate.entered == 1
        assert len(manager.outcomes(release)) == 1


async def test_a_redelivery_of_what_another_session_had_is_handed_back(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate()
    release = make_release("noop")
    # Another consumer gets it first, and goes away without an ack.
    other = FakeManager(make_broker("other"), TOPOLOGY, "gate")
    await other.start()
    taken = asyncio.Event()
    consuming = await other.broker.consume(Consumer(TOPOLOGY.task_queue("gate"), lambda _: taken.set(), prefetch=1))
    await other.publish(release)
    await taken.wait()
    await consuming.close()
    await other.broker.stop()
    async with playing(gate.worker, make_broker) as (_, manager):
        assert await manager.outcome(release) == Returned(release.task_id, 1, ReturnReason.REDELIVERED)
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert gate.runs == 0


async def test_the_same_release_sent_twice_runs_once(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (_, manager):
        release = make_release("wait")
        await manager.publish(release, release)
        await manager.publish(release)
        await manager.until(lambda: gate.entered == 1)
        gate.open.set()
        await manager.outcome(release)
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert (gate.entered, len(manager.outcomes(release))) == (1, 1)


async def test_rebuild_consumes_anew_and_runs_nothing_twice(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        before, after = make_release("wait"), make_release("noop")
        await manager.publish(before)
        await manager.until(lambda: gate.entered == 1)
        (given_back,) = session._intake.held[before.fence].messages
        await manager.control(session.id, Rebuild())
        await manager.until(lambda: session._intake.held[before.fence].messages != [given_back])
        await manager.publish(after)
        assert isinstance(await manager.outcome(after), Completed)
        gate.open.set()
        assert isinstance(await manager.outcome(before), Completed)
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert gate.entered == 1


def consumers(hub: MemoryHub, manager: FakeManager) -> int:
    return len(hub._queues[manager.topology.task_queue_name(manager.queue)].taps)


async def close_slowly(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over a network: others run before the consumer is closed."""
    consuming = await eventually(lambda: session._intake._consuming)
    assert consuming is not None
    close = consuming.close

    async def slowly() -> None:
        await others_ran()
        await close()

    monkeypatch.setattr(consuming, "close", slowly)


async def test_two_rebuilds_at_once_leave_one_consumer(
    hub: MemoryHub, make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        await close_slowly(session, monkeypatch)
        await asyncio.gather(session._intake.rebuild(), session._intake.rebuild())
        assert consumers(hub, manager) == 1
        assert isinstance(await manager.run("noop"), Completed)


async def test_a_rebuild_under_way_does_not_outlive_the_beginning_of_a_drain(
    hub: MemoryHub, make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        await close_slowly(session, monkeypatch)
        await asyncio.gather(session._intake.rebuild(), session._intake.stop())
        assert consumers(hub, manager) == 0


async def test_what_is_held_is_told_also_when_it_only_waits_for_a_confirm(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate(concurrency=1)
    async with playing(gate.worker, make_broker, pace=Pace(slow_run=60.0)) as (session, manager):
        running, waiting = make_release("wait"), make_release("wait")
        await manager.publish(running, waiting)
        await manager.until(lambda: gate.entered == 1)
        question = make_release("x").task_id
        await manager.control(session.id, AskHeld(question))
        answer = await manager.seen(Inventory)
        assert answer.question == question
        assert set(answer.held) == {running.fence, waiting.fence}
        gate.open.set()
        await manager.outcome(waiting)
