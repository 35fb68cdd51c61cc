"""Events: read together and off the way of what settles; bounded, and what does not fit is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tacoq_manager import events as stage
from tacoq_manager.events import READ_AT_ONCE, TRIES, Events, Listener, Wanted
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_protocol.events import TaskEnd
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.states import TaskState
from tests.support import eventually

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Tasks:
    """Stands for the database, and for what runs beside it."""

    def __init__(self) -> None:
        self.asked: list[list[UUID]] = []
        self.fault: Exception | None = None
        self.faults = 0  # tries that end with it
        self.held = asyncio.Event()  # while clear, an answer does not come back
        self.held.set()
        self.errands: list[asyncio.Task[None]] = []

    async def ends(self, ids: Sequence[UUID]) -> list[TaskEnd]:
        self.asked.append(list(ids))
        await self.held.wait()
        if self.fault is not None and len(self.asked) <= self.faults:
            raise self.fault
        return [end(id) for id in ids]

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.errands.append(asyncio.create_task(work))


def end(id: UUID, **fields: Any) -> TaskEnd:
    given: dict[str, Any] = {"kind": "add", "queue": "default", "state": TaskState.COMPLETED, "finished_at": NOW}
    return TaskEnd(id=id, created_at=NOW, **(given | fields))


def ids_of(count: int) -> list[UUID]:
    return [new_task_id() for _ in range(count)]


async def told(listener: Listener) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of all that there is for it now."""
    found = []
    while taken := await listener.take(0):
        for event in taken.decode().removesuffix("\n\n").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.split("\n"))
            found.append((fields["event"], json.loads(fields["data"])))
    return found


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def events(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> Events:
    monkeypatch.setattr(stage, "RETRY_SECONDS", 0.001)
    return Events(tasks.ends, tasks.begin)


async def read(tasks: Tasks) -> None:
    """Return once nothing is left to read."""
    await asyncio.gather(*tasks.errands)


async def test_ids_that_come_while_others_are_read_are_read_together(tasks: Tasks, events: Events) -> None:
    tasks.held.clear()
    first, *others = ids_of(30)
    with events.listener(Wanted()) as listener:
        events.heard([first])
        await eventually(lambda: tasks.asked)
        for id in others:
            events.heard([id])
        tasks.held.set()
        await read(tasks)
        assert tasks.asked == [[first], others]
        assert [data["id"] for _, data in await told(listener)] == [str(id) for id in (first, *others)]


async def test_a_read_is_never_for_more_than_its_size(tasks: Tasks, events: Events) -> None:
    with events.listener(Wanted()):
        events.heard(ids_of(2 * READ_AT_ONCE + 5))
        await read(tasks)
    assert [len(ids) for ids in tasks.asked] == [READ_AT_ONCE, READ_AT_ONCE, 5]


async def test_all_who_listen_share_one_read(tasks: Tasks, events: Events) -> None:
    with events.listener(Wanted()) as one, events.listener(Wanted(kinds=frozenset({"add"}))) as other:
        events.heard(ids_of(3))
        await read(tasks)
        assert len(tasks.asked) == 1
        assert await told(one) == await told(other)


async def test_nothing_is_read_or_kept_while_nobody_listens(tasks: Tasks, events: Events) -> None:
    events.heard(ids_of(3))
    assert (tasks.errands, len(events._unread)) == ([], 0)


async def test_what_the_last_one_has_left_is_not_read(tasks: Tasks, events: Events) -> None:
    tasks.held.clear()
    with events.listener(Wanted()):
        events.heard(ids_of(1))
        await eventually(lambda: tasks.asked)
        events.heard(ids_of(3))
    tasks.held.set()
    await read(tasks)
    assert len(tasks.asked) == 1


async def test_a_connection_that_broke_costs_nothing(tasks: Tasks, events: Events) -> None:
    tasks.fault, tasks.faults = DatabaseUnavailable("broken"), 1
    with events.listener(Wanted()) as listener:
        events.heard(ids_of(2))
        await read(tasks)
        assert [name for name, _ in await told(listener)] == ["task", "task"]


@pytest.mark.parametrize("fault", [DatabaseUnavailable("away"), RuntimeError("a bug")])
async def test_what_cannot_be_read_is_lost_and_said_to_be_and_the_next_is_told(
    tasks: Tasks, events: Events, fault: Exception
) -> None:
    tasks.fault, tasks.faults = fault, TRIES if isinstance(fault, DatabaseUnavailable) else 1
    with events.listener(Wanted()) as listener:
        events.heard(ids_of(7))
        await read(tasks)
        events.heard(ids_of(1))
        await read(tasks)
        (lost, task) = await told(listener)
        assert (lost, task[0]) == (("lost", {"count": 7}), "task")


async def test_what_is_too_much_to_be_read_is_lost_and_said_to_be(
    tasks: Tasks, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MOST_UNREAD", 10)
    tasks.held.clear()
    with events.listener(Wanted()) as listener:
        for _ in range(3):
            events.heard(ids_of(6))
        assert len(events._unread) == 10
        tasks.held.set()
        await read(tasks)
        names = [(name, data.get("count")) for name, data in await told(listener)]
        assert names == [("lost", 2), ("lost", 6)] + [("task", None)] * 10


async def test_what_does_not_fit_is_counted_where_it_is_missing(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MOST_UNTOLD", 3)
    with events.listener(Wanted()) as listener:
        for number in range(5):
            events._tell(end(new_task_id(), attempt=number + 1))
        events._lose(4)
        found = [data.get("attempt") or data for _, data in await told(listener)]
        assert found == [1, 2, 3, {"count": 6}]
        events._tell(end(new_task_id(), attempt=6))
        assert [data["attempt"] for _, data in await told(listener)] == [6]


async def test_a_loss_that_nobody_can_count_makes_the_sum_unknown(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MOST_UNTOLD", 1)
    with events.listener(Wanted()) as listener:
        for _ in range(3):
            events._tell(end(new_task_id()))
        events.missed()
        assert [(name, data.get("count")) for name, data in await told(listener)] == [("task", None), ("lost", None)]
        events._tell(end(new_task_id()))
        assert [name for name, _ in await told(listener)] == ["task"]


async def test_news_that_others_sent_may_be_lost_without_a_number(events: Events) -> None:
    with events.listener(Wanted()) as listener:
        events.missed()
        assert await told(listener) == [("lost", {})]


async def test_who_begins_to_listen_is_told_nothing_of_before(tasks: Tasks, events: Events) -> None:
    with events.listener(Wanted()):
        events.heard(ids_of(1))
        await read(tasks)
        with events.listener(Wanted()) as late:
            events.heard(last := ids_of(1))
            await read(tasks)
            assert [data["id"] for _, data in await told(late)] == [str(last[0])]


async def test_at_the_end_what_is_there_is_still_told(events: Events) -> None:
    with events.listener(Wanted()) as listener:
        events._tell(end(new_task_id()))
        events.release()
        assert await listener.take(30)
        assert await listener.take(30) == b""
    with events.listener(Wanted()) as late:
        assert await late.take(30) == b""
