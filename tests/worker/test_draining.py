"""The drain of a session: asked for by a manager or a signal, with a grace time, held up, and taken back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tacoq_protocol.broker import BrokerFactory, Declared
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.messages import (
    AskHeld,
    Completed,
    Drain,
    Failed,
    Heartbeat,
    Inventory,
    Leave,
    Outcome,
    Resume,
    Returned,
    ReturnReason,
)
from tacoq_worker import Worker, slots
from tacoq_worker.execute import Run
from tacoq_worker.session import Session
from tacoq_worker.settings import Pace
from tests.worker.handlers import in_processes
from tests.worker.manager import QUICK, TOPOLOGY, make_release, playing
from tests.worker.stopped import Stopped


async def test_a_drain_lets_runs_end_and_hands_back_the_rest(
    hub: MemoryHub, stopped: Stopped, make_broker: BrokerFactory
) -> None:
    stopped.worker.concurrency = 1
    async with playing(stopped.worker, make_broker, pace=Pace(slow_run=60.0)) as (session, manager):
        running, waiting = make_release("deaf"), make_release("noop")
        await manager.publish(running, waiting)
        await manager.until(stopped.running.is_set)
        draining = asyncio.create_task(session.drain(30.0))
        assert await manager.outcome(waiting) == Returned(waiting.task_id, 1, ReturnReason.SHUTDOWN)
        late = make_release("noop")
        await manager.publish(late)  # stays in the broker, for others
        stopped.release.set()
        assert await draining
        assert isinstance(await manager.outcome(running), Completed)
        assert await manager.ready_messages() == 1
        await manager.seen(Leave)


async def test_after_the_grace_time_what_runs_is_cancelled_and_handed_back(
    stopped: Stopped, make_broker: BrokerFactory
) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        release = make_release("long_async")
        await manager.publish(release)
        await manager.until(stopped.running.is_set)
        assert await session.drain(0.05)
        assert await manager.outcome(release) == Returned(release.task_id, 1, ReturnReason.SHUTDOWN)
        await manager.seen(Leave)


async def test_a_drain_sees_the_end_of_a_run_that_the_worker_itself_failed(
    stopped: Stopped, make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def broken(_: Run) -> Outcome:
        entered.set()
        await go_on.wait()
        raise RuntimeError("a bug")

    monkeypatch.setattr(slots, "call_async", broken)
    async with playing(stopped.worker, make_broker) as (session, manager):
        release = make_release("noop")
        await manager.publish(release)
        await entered.wait()
        draining = asyncio.create_task(session.drain(30.0))
        await manager.until(lambda: session._slots.watcher is not None)
        go_on.set()
        async with asyncio.timeout(10):
            assert await draining
        outcome = await manager.outcome(release)
        assert isinstance(outcome, Failed)
        assert outcome.error.type == "SlotFailed"


async def test_a_thread_that_does_not_stop_is_not_handed_back(stopped: Stopped, make_broker: BrokerFactory) -> None:
    quick = Pace(beat=0.05, stop_runs=0.1)
    async with playing(stopped.worker, make_broker, pace=quick) as (session, manager):
        release = make_release("deaf")
        await manager.publish(release)
        await manager.until(stopped.running.is_set)
        assert not await session.drain(0.05)
        assert not manager.outcomes(release)
        assert not any(isinstance(m, Leave) for m in manager.presence)
        assert await manager.ready_messages() == 1  # the broker has it back, unacked
        stopped.release.set()


async def test_a_drain_needs_no_thread_that_handlers_may_have_taken(
    stopped: Stopped, make_broker: BrokerFactory
) -> None:
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        async with playing(stopped.worker, make_broker) as (session, manager):
            await manager.publish(make_release("in_a_thread"))
            await manager.until(stopped.running.is_set)
            async with asyncio.timeout(10):
                assert await session.stop()
            stopped.release.set()


async def test_a_drain_that_cannot_report_does_not_leave(
    hub: MemoryHub, stopped: Stopped, make_broker: BrokerFactory
) -> None:
    async with playing(stopped.worker, make_broker, pace=Pace(last_reports=0.1)) as (session, manager):
        release = make_release("long_async")
        await manager.publish(release)
        await manager.until(stopped.running.is_set)
        hub.block()
        assert not await session.drain(0.0)
        hub.unblock()
        assert not manager.outcomes(release)


async def test_a_manager_may_ask_it_to_leave(stopped: Stopped, make_broker: BrokerFactory) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        await manager.control(session.id, Drain(leave=True))
        assert await session.ended()
        await manager.seen(Leave)


async def test_a_drained_session_takes_nothing_until_it_is_told_to_go_on(
    stopped: Stopped, make_broker: BrokerFactory
) -> None:
    async with playing(stopped.worker, make_broker, pace=Pace(beat=30.0, slow_run=60.0)) as (session, manager):
        runs = [make_release("deaf") for _ in range(2)]
        waits = [make_release("noop") for _ in range(3)]
        await manager.publish(*runs, *waits)  # in one message, whose ack waits for all of them
        await manager.until(stopped.running.is_set)
        await manager.control(session.id, Drain())
        for release in waits:
            assert await manager.outcome(release) == Returned(release.task_id, 1, ReturnReason.DRAINING)
        await manager.seen(Heartbeat, lambda beat: beat.draining)  # at once, not with the next beat
        stopped.release.set()
        for release in runs:
            assert isinstance(await manager.outcome(release), Completed)
        later = make_release("noop")
        await manager.publish(later)
        await manager.control(session.id, Drain())  # a second one changes nothing
        await manager.seen(Heartbeat, lambda beat: beat.draining and beat.held == 0)
        assert await manager.ready_messages() == 1
        await manager.control(session.id, Resume())
        assert isinstance(await manager.outcome(later), Completed)
        assert isinstance(await manager.run("noop"), Completed)
        await manager.until(lambda: isinstance(beat := manager.presence[-1], Heartbeat) and not beat.draining)
        beats = [message for message in manager.presence if isinstance(message, Heartbeat)]
        assert not any(beat.loop_blocked for beat in beats)
        assert not [message for message in manager.presence if isinstance(message, Leave)]


async def test_a_message_on_its_way_to_a_drained_session_is_handed_back(
    stopped: Stopped, make_broker: BrokerFactory
) -> None:
    """The consumer is changed a moment later, when it was changed just before."""
    async with playing(stopped.worker, make_broker) as (session, manager):
        assert isinstance(await manager.run("noop"), Completed)
        session._intake._early._changed_at = asyncio.get_running_loop().time() + 60.0
        session.pause()
        release = make_release("noop")
        await manager.publish(release)
        assert await manager.outcome(release) == Returned(release.task_id, 1, ReturnReason.DRAINING)
        session.resume()
        assert isinstance(await manager.run("noop"), Completed)


async def test_a_drained_session_that_loses_its_connection_stays_drained(
    stopped: Stopped, hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        assert isinstance(await manager.run("noop"), Completed)
        session.pause()
        await manager.until(lambda: session._intake._early.prefetch == 0)
        hub.go_down()
        hub.come_up()
        await manager.until(lambda: session._intake.active and session._control.active)
        await session._intake.rebuild()
        release = make_release("noop")
        await manager.publish(release)
        await manager.seen(Heartbeat, lambda beat: beat.draining)
        assert not manager.outcomes(release)
        session.resume()
        assert isinstance(await manager.outcome(release), Completed)


async def test_a_session_that_ends_cannot_be_resumed(stopped: Stopped, make_broker: BrokerFactory) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        await manager.publish(make_release("deaf"))
        await manager.until(stopped.running.is_set)
        session.pause()
        session.begin_drain()
        await manager.control(session.id, Resume())
        await manager.control(session.id, AskHeld(session.id))
        await manager.seen(Inventory)  # so it has heard the one before
        assert session._vitals.draining
        stopped.release.set()
        assert await session.ended()


@pytest.mark.parametrize("worker", [in_processes, Stopped().worker], ids=["process", "thread"])
async def test_a_drain_asked_for_during_the_start_comes_after_it(worker: Worker, hub: MemoryHub) -> None:
    class Slow(MemoryBroker):
        async def declare(self, things: Declared) -> None:
            await asyncio.sleep(0.05)  # as over a network
            await super().declare(things)

    session = Session(worker, lambda name: Slow(hub, name), TOPOLOGY, pace=QUICK)
    starting = asyncio.create_task(session.start())
    await asyncio.sleep(0)
    session.begin_drain()
    assert await session.ended()
    await starting
    assert not session._intake.active
    assert not hub._queues[TOPOLOGY.task_queue_name(worker.queue)].taps


async def test_a_session_that_was_stopped_before_its_start_takes_nothing(
    stopped: Stopped, hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    session = Session(stopped.worker, make_broker, TOPOLOGY, pace=QUICK)
    assert await session.stop()
    await session.start()
    assert not session._intake.active
    assert TOPOLOGY.task_queue_name(stopped.worker.queue) not in hub._queues


async def test_an_error_nobody_foresaw_in_a_drain_ends_the_wait_for_it(
    stopped: Stopped, make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(stopped.worker, make_broker, TOPOLOGY, pace=QUICK)
    await session.start()

    async def failing() -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(session._intake, "stop", failing)
    session.begin_drain()
    with pytest.raises(RuntimeError, match="nobody foresaw"):
        await asyncio.wait_for(session.ended(), 10)
    await session._close(leave=False)


async def test_a_draining_session_says_so(stopped: Stopped, make_broker: BrokerFactory) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        await manager.publish(make_release("deaf"))
        await manager.until(stopped.running.is_set)
        draining = asyncio.create_task(session.drain(30.0))
        await manager.seen(Heartbeat, lambda beat: beat.draining and beat.held == 1)
        stopped.release.set()
        assert await draining
