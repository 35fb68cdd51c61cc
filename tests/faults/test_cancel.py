"""A cancel in every state of a task, and in a race with its end: one final state, and nothing runs once it is final."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from random import Random
from typing import Any

import pytest

from tacoq_publisher import Publisher, TaskCall, TaskHandle, TaskState
from tests.faults.checker import check
from tests.faults.conftest import MakeField
from tests.faults.field import Field, Group, Link
from tests.faults.handlers import SLOTS, add, nap, nap_in_process, nap_in_thread
from tests.faults.ledger import Ledger
from tests.support.eventually import eventually

S = TaskState
NAPS: list[Callable[[float], TaskCall[float]]] = [nap.task, nap_in_thread.task, nap_in_process.task]
KINDS = [call(0.0).kind for call in NAPS]
ROUNDS = 8  # at least
IN_A_ROUND = [NAPS[0]] * 14 + [NAPS[1]] * 14 + [NAPS[2]] * 5  # some of each have to wait for a slot


async def states(handles: list[TaskHandle[Any]], wanted: TaskState) -> None:
    """Wait until all of these are in one state."""

    async def so() -> bool:
        return {await handle.state() for handle in handles} == {wanted}

    await eventually(so, 20, interval=0.1, what=f"all are {wanted}")


async def test_task_that_waits_is_cancelled_at_once_and_never_runs(field: Field, ledger: Ledger) -> None:
    """One is not due yet, one stands behind naps that have all the slots; tasks published later run."""
    await field.up("worker")
    async with Publisher(field.url) as tacoq:
        naps = [await ledger.publish(tacoq, nap.task(2.0), 2.0) for _ in range(SLOTS)]
        await states(naps, S.RUNNING)
        pending = await ledger.publish(tacoq, nap.task(0.0), 0.0)
        scheduled = await ledger.publish(tacoq, add.task(1, 1), 2, delay="1s")
        assert (await pending.state(), await scheduled.state()) == (S.PENDING, S.SCHEDULED)
        for handle in (pending, scheduled):
            assert await ledger.cancel(handle) is S.CANCELLED
        behind = await ledger.publish(tacoq, nap.task(0.0), 0.0)
        due_later = await ledger.publish(tacoq, add.task(1, 1), 2, delay="1s")
        for handle in (behind, due_later):
            assert await ledger.wait(handle, 20) is S.COMPLETED
        for handle in (pending, scheduled):
            assert await ledger.wait(handle, 5) is S.CANCELLED
            assert await field.effects.of(handle.id) == []
    await check(field, ledger)


async def test_task_that_is_queued_is_cancelled_by_its_worker(field: Field, ledger: Ledger) -> None:
    """The worker stands still when the task comes and when the cancel does; then it finds both."""
    (group,) = await field.up("worker")
    async with Publisher(field.url) as tacoq:
        queued = await published_to_a_frozen_worker(tacoq, ledger, group, nap.task(20.0), 20.0)
        for handle in queued:
            assert await ledger.cancel(handle) is S.QUEUED
        group.thaw()
        for handle in queued:
            assert await ledger.wait(handle, 15) is S.CANCELLED
    await check(field, ledger)


async def test_task_whose_deadline_passes_while_it_is_queued_expires_and_never_runs(
    field: Field, ledger: Ledger
) -> None:
    (group,) = await field.up("worker")
    async with Publisher(field.url) as tacoq:
        queued = await published_to_a_frozen_worker(
            tacoq, ledger, group, add.task(1, 1), 2, expires="2s", ends=frozenset({S.EXPIRED})
        )
        deadline = max([(await handle.view()).created_at for handle in queued]).timestamp() + 2.0
        await eventually(lambda: datetime.now(UTC).timestamp() > deadline, 10)
        assert {await handle.state() for handle in queued} == {S.QUEUED}
        group.thaw()
        for handle in queued:
            assert await ledger.wait(handle, 15) is S.EXPIRED
            assert await field.effects.of(handle.id) == []
    await check(field, ledger)


async def test_task_that_runs_is_stopped(field: Field, ledger: Ledger) -> None:
    """An async run is cancelled and a process killed; a thread is asked, and what it then returns counts."""
    await field.up("worker", "processes")
    async with Publisher(field.url) as tacoq:
        handles = [await ledger.publish(tacoq, make(30.0), 30.0) for make in NAPS]
        await states(handles, S.RUNNING)
        for handle in handles:
            assert await ledger.cancel(handle) is S.RUNNING
        ends = [await ledger.wait(handle, 15) for handle in handles]
        assert ends == [S.CANCELLED, S.COMPLETED, S.CANCELLED]
    await check(field, ledger)


@pytest.mark.timeout(120)
async def test_cancel_that_races_with_the_completion(field: Field, ledger: Ledger, seed: int) -> None:
    """Now the one is first, now the other: until both have been so in every executor. What is final stays so."""
    random = Random(seed)
    ends: Counter[tuple[str, TaskState]] = Counter()

    async def race(tacoq: Publisher, make: Callable[[float], TaskCall[float]], seconds: float) -> None:
        handle = await ledger.publish(tacoq, make(seconds), seconds)
        await asyncio.sleep(random.uniform(0.0, random.choice((0.2, 1.0))))
        answer = await ledger.cancel(handle)
        assert answer is not None
        end = await ledger.wait(handle, 30)
        assert not answer.final or end is answer
        assert await handle.cancel() is end  # a second cancel changes nothing
        ends[handle.kind or "", end] += 1

    await field.up("worker", "processes")
    async with Publisher(field.url) as tacoq:
        for number in count(1):
            naps = [(make, round(random.uniform(0.0, 0.2), 3)) for make in IN_A_ROUND]
            await asyncio.gather(*(race(tacoq, make, seconds) for make, seconds in naps))
            if number >= ROUNDS and all(ends[kind, end] for kind in KINDS for end in (S.COMPLETED, S.CANCELLED)):
                break
    await check(field, ledger)


@pytest.mark.timeout(120)
async def test_cancel_of_a_task_whose_older_message_is_about_while_nobody_can_be_told(
    make_field: MakeField, ledger: Ledger
) -> None:
    """It was given back, its message is with a worker that stands still, and the manager cannot reach the broker.

    So it is not final: the worker runs it when it wakes up, or hears of the cancel before.
    """
    field = await make_field(Link.MANAGER_BROKER)
    (group,) = await field.up("worker")
    link = field.link(Link.MANAGER_BROKER)
    async with Publisher(field.url) as tacoq:
        await ledger.wait(await ledger.publish(tacoq, add.task(1, 1), 2), 20)  # its queue is declared
        group.freeze()
        link.freeze(requests=False)
        handle = await ledger.publish(tacoq, add.task(1, 1), 2)

        async def given_back() -> bool:
            view = await handle.view()
            return (view.state, view.release) == (S.PENDING, 1)

        await eventually(given_back, 20)
        await link.refuse()
        assert await ledger.cancel(handle) is S.QUEUED
        group.thaw()

        async def ran() -> bool:
            return bool(await field.effects.of(handle.id))

        await eventually(ran, 20)
        link.thaw()
        await link.start()
        assert await ledger.wait(handle, 30) is S.COMPLETED
    await check(field, ledger)


async def published_to_a_frozen_worker(
    tacoq: Publisher, ledger: Ledger, group: Group, call: TaskCall[Any], result: object, **options: Any
) -> list[TaskHandle[Any]]:
    """Freeze the worker and publish; return when the tasks are on their way to it."""
    group.freeze()
    handles = [await ledger.publish(tacoq, call, result, **options) for _ in range(3)]
    await states(handles, S.QUEUED)
    return handles
