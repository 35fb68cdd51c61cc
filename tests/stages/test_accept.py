"""Accept: groups, resends, conflicts and refusals, on real Postgres."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import asyncpg
import pytest

from tacoq_manager import transitions as moves
from tacoq_manager.store import claim, leader, settle
from tacoq_manager.store.claim import Lane
from tacoq_protocol.errors import InvalidTask, TaskConflict
from tacoq_protocol.http import MAX_PAYLOAD_BYTES, Accepted, NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Completed
from tacoq_protocol.states import TaskState
from tests.stages.doors import Door, task


async def stored(database: str) -> int:
    connection = await asyncpg.connect(database)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM tasks")
        return count
    finally:
        await connection.close()


async def test_requests_that_wait_share_a_commit(door: Door) -> None:
    answers = await door.answers([task()], [task(), task()], [task()])
    assert [len(answer) for answer in answers] == [1, 2, 1]
    assert len(door.lanes) == 1  # told once, for all


async def test_resend_is_answered_and_changes_nothing(door: Door, database: str) -> None:
    first = task()
    assert await door.accept(first) == [Accepted(first.id, TaskState.PENDING)]
    assert await door.accept(first) == [Accepted(first.id, TaskState.PENDING, duplicate=True)]
    assert await stored(database) == 1


async def test_resend_within_one_group_is_compared_with_the_first(door: Door) -> None:
    first = task()
    same, other = first, task(first.id, b"2")
    answers = await door.answers([first], [same], [other])
    assert answers[0] == [Accepted(first.id, TaskState.PENDING)]
    assert answers[1] == [Accepted(first.id, TaskState.PENDING, duplicate=True)]
    assert isinstance(answers[2], TaskConflict)


async def test_resend_after_the_task_has_ended_tells_its_state(door: Door, database: str) -> None:
    first = task()
    await door.accept(first)
    me = uuid4()
    lead = await leader.take(door.database.upkeep, me)
    assert isinstance(lead, leader.Taken)
    takes = [claim.Take(Lane("default", "k", "", 0), 1)]
    await claim.claim(door.database.claim, epoch=lead.epoch, holder=me, limits=0, queue="default", takes=takes)
    report = Completed(first.id, 1, datetime.now(UTC), 0.1, b"2")
    assert await settle.apply(door.database.settle, [moves.complete(report, uuid4())])
    assert await door.accept(first) == [Accepted(first.id, TaskState.COMPLETED, duplicate=True)]
    assert await stored(database) == 0
    with pytest.raises(TaskConflict, match="other content"):
        await door.accept(task(first.id, b"2"))


async def test_conflict_refuses_its_whole_batch_and_no_other(door: Door, database: str) -> None:
    first = task()
    await door.accept(first)
    answers = await door.answers([task(), task()], [task(), task(first.id, b"2"), task()], [task()])
    assert [len(answers[0]), len(answers[2])] == [2, 1]
    assert isinstance(answers[1], TaskConflict)
    assert (answers[1].index, answers[1].task_id) == (1, first.id)
    assert await stored(database) == 1 + 2 + 1


async def test_value_that_postgres_refuses_is_refused_alone(door: Door, database: str) -> None:
    refused = task(tracestate="a\0b")  # no text column takes a NUL
    answers = await door.answers([task()], [refused], [task()])
    assert isinstance(answers[1], InvalidTask)
    assert str(refused.id) in str(answers[1])
    assert [len(answers[0]), len(answers[2])] == [1, 1]
    assert await stored(database) == 2


async def test_value_that_postgres_refuses_is_refused_when_nobody_shares_its_commit(door: Door) -> None:
    (answer,) = await door.answers([task(tracestate="a\0b")])
    assert isinstance(answer, InvalidTask)
    assert await door.accept(task())


async def test_caller_that_is_gone_when_its_task_is_refused_disturbs_nobody(door: Door) -> None:
    other, gone = (asyncio.ensure_future(door.accepter.accept([asked])) for asked in (task(), task(tracestate="a\0b")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    await door.accepter.step()
    assert len(await other) == 1


async def test_other_trace_is_the_same_task(door: Door) -> None:
    first = task(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    await door.accept(first)
    again = task(first.id, traceparent="00-" + "c" * 32 + "-" + "d" * 16 + "-01")
    assert (await door.accept(again))[0].duplicate


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (task(uuid4()), "not a UUIDv7"),
        (task(UUID(int=new_task_id().int + (2 * 86_400_000 << 80))), "day in the future"),
        (task(payload=b'"' + b"x" * MAX_PAYLOAD_BYTES + b'"'), "the limit is 1,048,576"),
        (task(delay=1.0, run_at=NOW), "delay and a run_at"),
        (task(expires_in=1.0, expires_at=NOW), "expires_in and expires_at"),
        (task(run_at=datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))), "outside the years"),
        (task(expires_at=datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))), "outside the years"),
        (task(run_at=NOW + timedelta(hours=2), expires_at=NOW + timedelta(hours=1)), "before it is due"),
    ],
)
async def test_bad_task_is_named_by_its_index_and_nothing_is_stored(
    door: Door, database: str, bad: NewTask, says: str
) -> None:
    with pytest.raises(InvalidTask, match=says) as caught:
        await door.accept(task(), bad)
    assert caught.value.index == 1
    assert await stored(database) == 0


async def test_same_id_twice_in_a_batch_is_refused(door: Door) -> None:
    first = task()
    with pytest.raises(InvalidTask, match="stands twice") as caught:
        await door.accept(first, task(), first)
    assert caught.value.index == 2


async def test_delayed_task_is_scheduled_and_its_due_time_is_told(door: Door) -> None:
    (answer,) = await door.accept(task(delay=60.0))
    assert (answer.state, door.due, door.lanes) == (TaskState.SCHEDULED, [60.0], [])


async def test_order_of_a_batch_is_the_order_of_accept(door: Door, database: str) -> None:
    tasks = [task() for _ in range(100)]
    await door.accept(*tasks)
    connection = await asyncpg.connect(database)
    rows = await connection.fetch("SELECT id FROM tasks ORDER BY seq")
    await connection.close()
    assert [row["id"] for row in rows] == [t.id for t in tasks]
