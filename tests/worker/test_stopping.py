"""Runs that are stopped: timeout and cancel, in the three executors."""

from __future__ import annotations

import asyncio

import pytest

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import (
    Cancelled,
    CancelRuns,
    Completed,
    Failed,
)
from tacoq_worker import Worker
from tacoq_worker.settings import Pace
from tests.worker.manager import make_release, playing
from tests.worker.stopped import Stopped


@pytest.mark.parametrize(
    ("kind", "seen"), [("short_async", ["cancelled"]), ("short_sync", ["asked"]), ("stubborn", [])]
)
async def test_a_run_over_its_timeout_fails(
    kind: str, seen: list[str], stopped: Stopped, make_broker: BrokerFactory
) -> None:
    async with playing(stopped.worker, make_broker) as (_, manager):
        outcome = await manager.run(kind)
        assert isinstance(outcome, Failed)
        assert (outcome.retryable, outcome.error.type) == (True, "TimeoutError")
        assert outcome.error.message == "the run took longer than its timeout of 0.05 s"
        assert outcome.seconds >= 0.05
        assert stopped.seen == seen
        assert isinstance(await manager.run("noop"), Completed)  # the slot goes on


async def test_the_release_s_own_timeout_goes_before_the_kind_s(stopped: Stopped, make_broker: BrokerFactory) -> None:
    async with playing(stopped.worker, make_broker) as (_, manager):
        outcome = await manager.run("long_async", timeout=0.03)
    assert isinstance(outcome, Failed)
    assert "0.03 s" in outcome.error.message


@pytest.mark.parametrize("first", ["the longer", "the shorter"])
async def test_runs_side_by_side_are_each_stopped_in_their_own_time(
    first: str, stopped: Stopped, make_broker: BrokerFactory
) -> None:
    longer, shorter = make_release("long_async", timeout=0.3), make_release("long_async", timeout=0.05)
    async with playing(stopped.worker, make_broker) as (_, manager):
        await manager.publish(*((longer, shorter) if first == "the longer" else (shorter, longer)))
        ends = [await manager.outcome(release) for release in (shorter, longer)]
    assert [end.error.message for end in ends if isinstance(end, Failed)] == [
        "the run took longer than its timeout of 0.05 s",
        "the run took longer than its timeout of 0.3 s",
    ]


async def test_a_thread_keeps_its_slot_until_it_ends(stopped: Stopped, make_broker: BrokerFactory) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        release = make_release("deaf", timeout=0.02)
        await manager.publish(release)
        await manager.until(lambda: manager.started(release))
        assert len(session._slots.running()) == 1
        assert not manager.outcomes(release)
        stopped.release.set()
        outcome = await manager.outcome(release)
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "TimeoutError"


@pytest.mark.parametrize("kind", ["long_async", "long_sync"])
async def test_a_running_task_is_cancelled(kind: str, stopped: Stopped, make_broker: BrokerFactory) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        release = make_release(kind)
        await manager.publish(release)
        await manager.until(stopped.running.is_set)
        await manager.control(session.id, CancelRuns([release.task_id, new_task_id()]))
        outcome = await manager.outcome(release)
        assert isinstance(outcome, Cancelled)
        assert outcome.started_at is not None
        assert isinstance(await manager.run("noop"), Completed)


async def test_a_completion_that_was_first_wins_over_a_cancel(stopped: Stopped, make_broker: BrokerFactory) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        release = make_release("completes_on_cancel")
        await manager.publish(release)
        await manager.until(stopped.running.is_set)
        await manager.control(session.id, CancelRuns([release.task_id]))
        assert isinstance(await manager.outcome(release), Completed)


async def test_a_waiting_task_is_cancelled_without_a_run(stopped: Stopped, make_broker: BrokerFactory) -> None:
    stopped.worker.concurrency = 1
    async with playing(stopped.worker, make_broker, pace=Pace(slow_run=60.0)) as (session, manager):
        running, waiting = make_release("long_async"), make_release("noop")
        await manager.publish(running, waiting)
        await manager.until(stopped.running.is_set)
        await manager.control(session.id, CancelRuns([waiting.task_id]))
        outcome = await manager.outcome(waiting)
        assert isinstance(outcome, Cancelled)
        assert outcome.started_at is None
        await manager.control(session.id, CancelRuns([running.task_id]))
        await manager.outcome(running)


async def test_a_cancel_that_comes_before_the_release_waits_for_it(
    stopped: Stopped, make_broker: BrokerFactory
) -> None:
    async with playing(stopped.worker, make_broker) as (session, manager):
        release = make_release("noop")
        await manager.control(session.id, CancelRuns([release.task_id]))
        await manager.until(lambda: release.task_id in session._intake._cancels._ids)
        await manager.publish(release)
        assert isinstance(await manager.outcome(release), Cancelled)
        again = make_release("noop")
        await manager.publish(again)
        assert isinstance(await manager.outcome(again), Completed)


async def test_early_cancels_are_bounded(stopped: Stopped, make_broker: BrokerFactory) -> None:
    async with playing(stopped.worker, make_broker) as (session, _):
        first = new_task_id()
        session._intake.cancel([first])
        session._intake.cancel(new_task_id() for _ in range(10_000))
        assert len(session._intake._cancels._ids) == 10_000
        assert first not in session._intake._cancels._ids


async def test_a_cancel_of_its_own_task_that_a_handler_leaves_behind_costs_no_slot(make_broker: BrokerFactory) -> None:
    worker = Worker("late", concurrency=1)

    @worker.task
    async def leave_a_cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.02, task.cancel)

    @worker.task
    async def nap() -> None:
        await asyncio.sleep(0.02)

    async with playing(worker, make_broker, pace=Pace(slow_run=60.0)) as (session, manager):
        await manager.run("leave_a_cancel")
        slot_task = session._slots._slots[0]._task
        await manager.until(lambda: session._slots._slots[0]._task is not slot_task)
        both = [make_release("nap"), make_release("nap")]
        await manager.publish(*both)
        for release in both:
            assert isinstance(await manager.outcome(release), Completed)
        assert isinstance(await manager.run("nap"), Completed)
