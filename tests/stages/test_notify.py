"""Notify: whoever waits is told once, of what is final, however the news comes, and as cheaply as can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from uuid import UUID

import pytest
import pytest_asyncio

from tacoq_manager.notify import READ_AT_ONCE, Told, Waiters
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_protocol.http import TaskView, UnknownTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.states import TaskState
from tests.support import eventually

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Tasks:
    """Stands for the database: which tasks there are, and a log of what was asked."""

    def __init__(self) -> None:
        self.live: set[UUID] = set()
        self.final: set[UUID] = set()
        self.asked: list[list[UUID]] = []
        self.away = False
        self.held = asyncio.Event()  # while clear, an answer does not come back
        self.held.set()

    def new(self, count: int = 1) -> list[UUID]:
        ids = [new_task_id() for _ in range(count)]
        self.live.update(ids)
        return ids

    def finish(self, ids: Sequence[UUID]) -> None:
        self.live -= set(ids)
        self.final |= set(ids)

    async def ended(self, ids: Sequence[UUID]) -> tuple[list[TaskView], set[UUID]]:
        self.asked.append(list(ids))
        if self.away:
            raise DatabaseUnavailable("away")
        answer = [view(id) for id in ids if id in self.final], {id for id in ids if id in self.live}
        await self.held.wait()
        return answer


def view(id: UUID) -> TaskView:
    state = TaskState.COMPLETED
    return TaskView(id=id, kind="add", queue="default", state=state, created_at=NOW, run_at=NOW, finished_at=NOW)


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest_asyncio.fixture
async def waiters(tasks: Tasks) -> AsyncIterator[Waiters]:
    waiters = Waiters(tasks.ended)
    await waiters.start()
    yield waiters
    await waiters.stop()


async def collect(waiters: Waiters, ids: Sequence[UUID], timeout: float = 30.0) -> list[Told]:
    async with aclosing(waiters.wait(ids, timeout)) as told:
        return [one async for batch in told for one in batch]


def told_of(told: Sequence[Told]) -> set[UUID]:
    assert len({one.id for one in told}) == len(told)
    return {one.id for one in told}


async def test_what_is_final_already_is_told_at_once_even_without_time(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(3)
    tasks.finish(ids[:2])
    assert told_of(await collect(waiters, ids, timeout=0)) == set(ids[:2])


async def test_an_unknown_id_is_told_as_such(tasks: Tasks, waiters: Waiters) -> None:
    unknown = new_task_id()
    assert await collect(waiters, [unknown]) == [UnknownTask(unknown)]


async def test_a_waiter_wakes_when_its_task_is_settled(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(2)
    waiting = asyncio.create_task(collect(waiters, ids))
    await eventually(lambda: tasks.asked)
    for id in ids:
        tasks.finish([id])
        waiters.settled([id])
    assert told_of(await waiting) == set(ids)


async def test_what_is_known_when_it_is_settled_is_told_without_a_look(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(2)
    waiting = asyncio.create_task(collect(waiters, ids))
    await eventually(lambda: tasks.asked)
    looks = len(tasks.asked)
    assert all(waiters.waits_for(id) for id in ids)
    tasks.finish(ids)
    waiters.settled(ids, [view(id) for id in ids])
    assert told_of(await waiting) == set(ids)
    assert (len(tasks.asked), any(waiters.waits_for(id) for id in ids)) == (looks, False)


async def test_what_was_just_accepted_here_is_not_looked_for(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(2)
    waiters.accepted(ids)
    async with aclosing(waiters.wait(ids, 30)) as told:
        assert await anext(told) == []
        tasks.finish(ids)
        waiters.settled(ids, [view(id) for id in ids])
        assert told_of(await anext(told)) == set(ids)
    assert tasks.asked == []


async def test_what_has_ended_since_is_looked_for(tasks: Tasks, waiters: Waiters) -> None:
    ended, live = tasks.new(2)
    waiters.accepted([ended, live])
    tasks.finish([ended])
    waiters.settled([ended])
    assert told_of(await collect(waiters, [ended, live], timeout=0.01)) == {ended}
    assert tasks.asked == [[ended]]


async def test_what_has_ended_without_news_is_looked_for_after_the_next_reread(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new()
    waiters.accepted(ids)
    tasks.finish(ids)
    assert await collect(waiters, ids, timeout=0.01) == []
    waiters.reread()
    assert told_of(await collect(waiters, ids, timeout=0.01)) == set(ids)


async def test_a_wait_without_time_looks_for_all(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(2)
    waiters.accepted(ids)
    tasks.finish(ids[:1])  # and the news got lost
    assert told_of(await collect(waiters, ids, timeout=0)) == {ids[0]}


async def test_it_is_told_in_batches_as_they_end(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(4)
    async with aclosing(waiters.wait(ids, 30)) as told:
        tasks.finish(ids[:3])
        assert told_of(await anext(told)) == set(ids[:3])
        tasks.finish(ids[3:])
        waiters.settled(ids[3:])
        assert told_of(await anext(told)) == set(ids[3:])
        assert await anext(told, None) is None


async def test_a_first_look_that_finds_nothing_final_says_so(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(2 * READ_AT_ONCE)
    async with aclosing(waiters.wait(ids, 30)) as told:
        assert await anext(told) == []
        assert sum(len(asked) for asked in tasks.asked) == len(ids)
        tasks.finish(ids[:1])
        waiters.settled(ids[:1])
        assert told_of(await anext(told)) == {ids[0]}


async def test_an_end_between_the_look_and_the_wait_is_not_missed(tasks: Tasks, waiters: Waiters) -> None:
    """The first look saw it live; it ends, and the news comes, before that look's answer is there."""
    ids = tasks.new()
    tasks.held.clear()
    waiting = asyncio.create_task(collect(waiters, ids))
    await eventually(lambda: tasks.asked)
    tasks.finish(ids)
    waiters.settled(ids)
    tasks.held.set()
    assert told_of(await waiting) == set(ids)


async def test_the_wait_ends_at_its_timeout(tasks: Tasks, waiters: Waiters) -> None:
    assert await collect(waiters, tasks.new(), timeout=0.05) == []
    assert waiters.waiting == 0


async def test_the_same_id_twice_is_told_once(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new()
    tasks.finish(ids)
    assert len(await collect(waiters, ids * 2)) == 1


async def test_all_who_wait_share_one_look(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(20)
    waiting = [asyncio.create_task(collect(waiters, ids)) for _ in range(50)]
    await eventually(lambda: waiters.waiting == 20 and len(tasks.asked) >= 1)
    await eventually(lambda: not waiters._fresh)
    looks = len(tasks.asked)
    tasks.finish(ids)
    waiters.settled(ids)
    for told in await asyncio.gather(*waiting):
        assert told_of(told) == set(ids)
    assert len(tasks.asked) == looks + 1


async def test_ids_that_arrive_while_a_look_is_under_way_form_the_next_one(tasks: Tasks, waiters: Waiters) -> None:
    first, *others = tasks.new(30)
    tasks.held.clear()
    waiting = [asyncio.create_task(collect(waiters, [first]))]
    await eventually(lambda: tasks.asked)
    waiting += [asyncio.create_task(collect(waiters, [id])) for id in others]
    await eventually(lambda: waiters.waiting == 30)
    tasks.finish([first, *others])
    tasks.held.set()
    waiters.settled([first])
    await asyncio.gather(*waiting)
    assert tasks.asked[0] == [first]
    assert len(tasks.asked) == 2
    assert set(tasks.asked[1]) == {first, *others}


async def test_a_look_is_never_for_more_than_its_size_and_ended_ones_go_first(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(2 * READ_AT_ONCE + 5)
    waiting = asyncio.create_task(collect(waiters, ids))
    await eventually(lambda: sum(len(asked) for asked in tasks.asked) == len(ids))
    assert max(len(asked) for asked in tasks.asked) == READ_AT_ONCE
    tasks.asked.clear()
    waiters.reread()
    tasks.finish(ids[-1:])
    waiters.settled(ids[-1:])
    await eventually(lambda: len(tasks.asked) == 3)
    assert tasks.asked[0][0] == ids[-1]
    tasks.finish(ids)
    waiters.settled(ids)
    assert told_of(await waiting) == set(ids)


async def test_news_that_got_lost_cost_a_look_and_nothing_else(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(2)
    waiting = asyncio.create_task(collect(waiters, ids))
    await eventually(lambda: tasks.asked)
    tasks.finish(ids)
    assert waiters.reread() == 2
    assert told_of(await waiting) == set(ids)
    assert waiters.reread() == 0


async def test_news_of_tasks_that_nobody_waits_for_cost_nothing(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(5)
    tasks.finish(ids)
    waiters.settled(ids)
    assert await collect(waiters, tasks.new(), timeout=0) == []
    assert not set(ids) & {id for asked in tasks.asked for id in asked}


async def test_who_goes_away_leaves_nothing_behind(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(3)
    told = waiters.wait(ids, 30)
    following = asyncio.ensure_future(anext(told))
    await eventually(lambda: waiters.waiting == 3)
    other = asyncio.create_task(collect(waiters, ids[:1]))
    await eventually(lambda: len(waiters._waiting[ids[0]]) == 2)
    following.cancel()
    await asyncio.wait([following])
    await told.aclose()
    assert set(waiters._waiting) == {ids[0]}
    tasks.finish(ids)
    waiters.settled(ids)
    assert told_of(await other) == {ids[0]}
    assert waiters.waiting == 0


async def test_a_first_look_that_fails_is_told_to_the_caller(tasks: Tasks, waiters: Waiters) -> None:
    tasks.away = True
    with pytest.raises(DatabaseUnavailable):
        await collect(waiters, tasks.new())
    assert waiters.waiting == 0


async def test_a_later_look_that_fails_costs_only_time(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new()
    waiting = asyncio.create_task(collect(waiters, ids))
    await eventually(lambda: tasks.asked)
    tasks.away = True
    tasks.finish(ids)
    waiters.settled(ids)
    await eventually(lambda: len(tasks.asked) == 2)
    assert not waiting.done()
    tasks.away = False
    waiters.reread()
    assert told_of(await waiting) == set(ids)


async def test_waits_end_when_the_manager_stops(tasks: Tasks, waiters: Waiters) -> None:
    ids = tasks.new(2)
    waiting = asyncio.create_task(collect(waiters, ids))
    await eventually(lambda: tasks.asked)
    waiters.release()
    assert await waiting == []
    assert await collect(waiters, ids) == []


async def test_any_number_of_tasks_that_nobody_waits_for_any_more_is_passed_over(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tacoq_manager.notify.READ_AT_ONCE", 1)
    waiters = Waiters(tasks.ended)
    async with aclosing(waiters.wait(tasks.new(5_000), 10)) as gone:
        first = asyncio.ensure_future(anext(gone))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    (task_id,) = tasks.new()
    tasks.finish([task_id])
    await waiters.start()
    async with aclosing(waiters.wait([task_id], 10)) as told:
        assert [answer.id for answer in await anext(told)] == [task_id]
    await waiters.stop()
