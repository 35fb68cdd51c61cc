"""Unique keys: one live task for a kind and its fields, and what a second publish does to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tacoq_manager.store import keyed
from tacoq_manager.store.claim import Lane
from tacoq_protocol.errors import InvalidTask, TaskConflict, TaskExists
from tacoq_protocol.http import Accepted, NewTask
from tacoq_protocol.states import TaskState
from tests.stages.doors import Door, reindex, replacing, task

SCHEDULED, PENDING = TaskState.SCHEDULED, TaskState.PENDING


async def test_second_publish_is_answered_with_the_live_task_in_whatever_state(door: Door) -> None:
    first = reindex()
    await door.accept(first)
    for state in (PENDING, TaskState.QUEUED, TaskState.RUNNING):
        await door.put_into(first.id, state)
        assert await door.accept(reindex()) == [Accepted(first.id, state, duplicate=True)]
    assert await door.live() == [first.id]
    assert b"tacoq_publishes_absorbed_total 3.0" in door.metrics.text()


async def test_key_is_free_when_the_task_has_ended(door: Door) -> None:
    first, second = reindex(), reindex()
    await door.accept(first)
    await door.complete(first.id)
    assert await door.accept(second) == [Accepted(second.id, PENDING)]


async def test_key_is_kept_while_the_task_waits_for_its_retry(door: Door) -> None:
    first = reindex()
    await door.accept(first)
    await door.fail(first.id, delay=60.0)
    assert await door.accept(reindex()) == [Accepted(first.id, SCHEDULED, duplicate=True)]


PAYLOADS: list[tuple[Any, bytes, Any, bytes, bool]] = [
    (("doc",), b'{"doc":5,"why":"x"}', ("doc",), b'{"why":"y", "doc": 5}', True),
    (("doc",), b'{"doc":5}', ("doc",), b'{"doc":6}', False),
    (("doc",), b'{"doc":5}', ("doc",), b'{"doc":"5"}', False),
    (("doc",), b'{"doc":5}', ("doc",), b'{"doc":5.0}', True),
    (("doc",), b'{"doc":100000000000000000000000000001}', ("doc",), b'{"doc":100000000000000000000000000002}', False),
    (("doc",), b'{"doc":{"a":1,"b":[2]}}', ("doc",), b'{"doc":{"b": [2],"a":1}}', True),
    (("doc",), b'{"doc":null}', ("doc",), b'{"doc":false}', False),
    (("doc", "why"), b'{"doc":5,"why":"x"}', ("why", "doc"), b'{"doc":5,"why":"x"}', True),
    (("doc",), b'{"doc":5,"why":"x"}', ("doc", "why"), b'{"doc":5,"why":"x"}', False),
    (True, b'{"doc":5,"why":"x"}', True, b'{ "why":"x","doc":5 }', True),
    (True, b'{"doc":5}', ("doc",), b'{"doc":5}', False),
    (True, b'"\\u00e4"', True, b'"\xc3\xa4"', True),
    (True, b"null", True, b"null", True),
]


@pytest.mark.parametrize(("fields", "payload", "other_fields", "other", "same"), PAYLOADS)
async def test_values_are_compared_as_json(
    door: Door, fields: Any, payload: bytes, other_fields: Any, other: bytes, same: bool
) -> None:
    await door.accept(task(payload=payload, unique=fields))
    assert (await door.accept(task(payload=other, unique=other_fields)))[0].duplicate is same


async def test_kinds_do_not_share_keys_but_queues_and_fairness_keys_do(door: Door) -> None:
    await door.accept(reindex(queue="a", fairness_key="one"))
    assert (await door.accept(reindex(queue="b", fairness_key="other")))[0].duplicate
    assert not (await door.accept(msgspec.structs.replace(reindex(), kind="other")))[0].duplicate


async def test_replace_gives_a_waiting_task_the_new_payload_and_options(door: Door) -> None:
    first = reindex(why="first", priority=1, expires_in=60.0, max_attempts=7)
    second = replacing(why="second", priority=5, fairness_key="f", queue="q", timeout=3.0)
    await door.accept(first)
    assert await door.accept(second) == [Accepted(first.id, PENDING, duplicate=True)]
    row = await door.row(first.id)
    for name, value in {
        "payload": bytes(second.payload), "priority": 5, "fairness_key": "f", "queue": "q", "timeout": 3.0,
        "max_attempts": None, "expires_at": None, "state": "pending",
    }.items():  # fmt: skip
        assert row[name] == value, name
    assert door.lanes[-1] == {Lane("q", "k", "f", 5)}, "the lane it moved to is told"
    assert await door.live() == [first.id]


async def test_replace_with_a_delay_pushes_the_task_back(door: Door) -> None:
    first = replacing(why="first", delay=60.0)
    await door.accept(first)
    due = (await door.row(first.id))["run_at"]
    assert await door.accept(replacing(why="second", delay=120.0)) == [Accepted(first.id, SCHEDULED, duplicate=True)]
    assert (await door.row(first.id))["run_at"] > due
    assert door.due == [60.0, 120.0]
    assert await door.accept(replacing(why="third")) == [Accepted(first.id, PENDING, duplicate=True)]
    assert await door.accept(replacing(why="fourth", delay=5.0)) == [Accepted(first.id, SCHEDULED, duplicate=True)]
    assert b"fourth" in await door.payload(first.id)


async def test_replace_without_a_delay_keeps_the_place_in_the_line(door: Door) -> None:
    first, behind = reindex(), task()
    await door.accept(first)
    await door.accept(behind)
    await door.accept(replacing(why="new"))
    rows = await door.fetch("SELECT id FROM tasks ORDER BY run_at, seq")
    assert [row["id"] for row in rows] == [first.id, behind.id]


async def test_replaced_task_that_waited_for_a_retry_begins_anew(door: Door) -> None:
    first = reindex()
    await door.accept(first)
    await door.fail(first.id, delay=60.0)
    assert await door.accept(replacing()) == [Accepted(first.id, PENDING, duplicate=True)]
    row = await door.row(first.id)
    assert (row["attempt"], row["crashes"]) == (0, 0)


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.RUNNING, None])
async def test_replace_leaves_alone_what_may_run(door: Door, state: TaskState | None) -> None:
    """None: pending again, with a release that is open: a run of it may be about."""
    first = reindex(why="first")
    await door.accept(first)
    await door.put_into(first.id, state or PENDING, opened=True)
    assert await door.accept(replacing(why="second")) == [Accepted(first.id, state or PENDING, duplicate=True)]
    assert await door.payload(first.id) == bytes(first.payload)


async def test_reject_names_the_live_task_and_stores_nothing_of_its_batch(door: Door) -> None:
    first = reindex()
    await door.accept(first)
    with pytest.raises(TaskExists, match=str(first.id)) as caught:
        await door.accept(task(), reindex(6), reindex(on_conflict="reject"))
    assert (caught.value.task_id, caught.value.index) == (first.id, 2)
    assert await door.live() == [first.id]


async def test_rejected_publish_is_accepted_when_it_comes_again_and_the_key_is_free(door: Door) -> None:
    first, second = reindex(), reindex(on_conflict="reject")
    await door.accept(first)
    with pytest.raises(TaskExists):
        await door.accept(second)
    await door.complete(first.id)
    for duplicate in (False, True):
        assert await door.accept(second) == [Accepted(second.id, PENDING, duplicate)], "a resend is never rejected"


async def test_rejected_request_does_not_disturb_those_of_its_group(door: Door) -> None:
    """What it would have stored holds no key for the others."""
    first = reindex(1)
    await door.accept(first)
    rejected = [reindex(2), reindex(1, on_conflict="reject")]
    second = reindex(2, on_conflict="reject")
    again = reindex(2, on_conflict="reject")
    answers = await door.answers(rejected, [second], [again], [task()], [reindex(1)])
    assert isinstance(answers[0], TaskExists)
    assert answers[1] == [Accepted(second.id, PENDING)]
    assert isinstance(answers[2], TaskExists)
    assert answers[2].task_id == second.id
    assert not answers[3][0].duplicate
    assert answers[4] == [Accepted(first.id, PENDING, duplicate=True)]


async def test_requests_that_would_reject_each_other_do_not_refuse_both(door: Door) -> None:
    a, b = [reindex(1), reindex(2)], [reindex(2), reindex(1)]
    ids = sorted(one.id for one in (*a, *b))
    strict = {"on_conflict": "reject"}
    one = [msgspec.structs.replace(a[0], id=ids[0]), msgspec.structs.replace(a[1], id=ids[3], **strict)]
    other = [msgspec.structs.replace(b[0], id=ids[1]), msgspec.structs.replace(b[1], id=ids[2], **strict)]
    answers = await door.answers(one, other)
    assert sorted(isinstance(answer, TaskExists) for answer in answers) == [False, True]
    assert len(await door.live()) == 2


async def test_same_key_within_a_batch_follows_the_order_of_the_batch(door: Door) -> None:
    sent = [reindex(why="1"), replacing(why="2"), reindex(why="3"), replacing(why="4", delay=60.0), replacing(why="5")]
    answers = await door.accept(*sent, task())
    assert [one.id for one in answers[:5]] == [sent[0].id] * 5
    assert [one.duplicate for one in answers] == [False, True, True, True, True, False]
    assert await door.payload(sent[0].id) == bytes(sent[4].payload)
    assert await door.accept(*sent) == [Accepted(sent[0].id, PENDING, duplicate=True)] * 5


async def test_many_requests_that_depend_on_each_other_are_tried_once_each(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shares a key with the next: every second one is rejected, and only by one that is not."""
    requests = [[reindex(n, on_conflict="reject"), reindex(n + 1, on_conflict="reject")] for n in range(20)]
    tried: list[int] = []
    accept = keyed.accept

    async def counted(connection: Any, rows: Any, *arguments: Any) -> Any:
        tried.append(len(rows))
        return await accept(connection, rows, *arguments)

    monkeypatch.setattr(keyed, "accept", counted)
    answers = await door.answers(*requests)
    assert [isinstance(answer, TaskExists) for answer in answers] == [False, True] * 10
    assert sum(tried) <= 2 * 40


async def test_batch_that_rejects_itself_says_so(door: Door) -> None:
    with pytest.raises(TaskExists, match="stands beside it") as caught:
        await door.accept(reindex(), reindex(on_conflict="reject"))
    assert caught.value.index == 1
    assert await door.live() == []


async def test_order_of_a_batch_with_and_without_keys_is_the_order_of_accept(door: Door) -> None:
    sent = [reindex(number) if number % 2 else task() for number in range(50)]
    await door.accept(*sent)
    rows = await door.fetch("SELECT id FROM tasks ORDER BY seq")
    assert [row["id"] for row in rows] == [one.id for one in sent]


class TestResend:
    """A publish whose answer was lost comes again, with the same id."""

    async def test_of_a_replaced_publish_is_no_conflict_and_undoes_nothing(self, door: Door) -> None:
        first, second = replacing(why="first", delay=60.0), replacing(why="second", delay=60.0)
        await door.accept(first)
        await door.accept(second)
        due = (await door.row(first.id))["run_at"]
        assert await door.accept(first) == [Accepted(first.id, SCHEDULED, duplicate=True)]
        assert await door.payload(first.id) == bytes(second.payload)
        assert (await door.row(first.id))["run_at"] == due

    async def test_of_a_replacing_publish_does_not_undo_a_later_one(self, door: Door) -> None:
        first, second, third = (replacing(why=why) for why in ("first", "second", "third"))
        for sent in (first, second, third, second, first, second):
            assert [one.id for one in await door.accept(sent)] == [first.id]
        assert await door.payload(first.id) == bytes(third.payload)

    async def test_of_a_replacing_publish_makes_no_second_task_when_the_first_has_ended(self, door: Door) -> None:
        first, second = replacing(why="first"), replacing(why="second")
        await door.accept(first)
        await door.accept(second)
        await door.complete(first.id)
        assert await door.accept(second) == [Accepted(first.id, TaskState.COMPLETED, duplicate=True)]
        later = replacing(why="third")
        await door.accept(later)
        assert await door.accept(second) == [Accepted(first.id, TaskState.COMPLETED, duplicate=True)]
        assert await door.payload(later.id) == bytes(later.payload)

    async def test_of_one_that_was_returned_is_answered_as_before_when_the_task_has_ended(self, door: Door) -> None:
        first, second = reindex(), reindex()
        await door.accept(first)
        await door.accept(second)
        await door.complete(first.id)
        assert await door.accept(second) == [Accepted(first.id, TaskState.COMPLETED, duplicate=True)]
        assert await door.live() == []

    async def test_of_one_that_met_a_run_does_not_replace_when_it_waits_again(self, door: Door) -> None:
        first, second = reindex(why="first"), replacing(why="second")
        await door.accept(first)
        await door.put_into(first.id, TaskState.QUEUED, opened=True)
        await door.accept(second)
        await door.fail(first.id, delay=60.0)
        assert await door.accept(second) == [Accepted(first.id, SCHEDULED, duplicate=True)]
        assert await door.payload(first.id) == bytes(first.payload)

    async def test_with_other_content_is_a_conflict(self, door: Door) -> None:
        first, second = reindex(why="first"), replacing(why="second")
        await door.accept(first)
        await door.accept(second)
        with pytest.raises(TaskConflict):
            await door.accept(msgspec.structs.replace(second, priority=9))
        with pytest.raises(TaskConflict):
            await door.accept(msgspec.structs.replace(first, unique=True))


async def test_idempotency_key_goes_before_the_unique_one(door: Door) -> None:
    first = reindex(why="first", idempotency_key="a")
    joined = replacing(why="second", idempotency_key="b")
    await door.accept(first)
    assert [one.id for one in await door.accept(joined)] == [first.id]
    await door.accept(replacing(why="third", idempotency_key="c"))
    again = replacing(why="second", idempotency_key="b")
    assert await door.accept(again) == [Accepted(first.id, PENDING, duplicate=True)]
    assert b"third" in await door.payload(first.id), "what came again under its idempotency key replaces nothing"
    await door.complete(first.id)
    again = replacing(why="second", idempotency_key="b")
    assert await door.accept(again) == [Accepted(first.id, TaskState.COMPLETED, duplicate=True)]


WRONG: list[tuple[NewTask, str]] = [
    (task(payload=b'{"id":5}', unique=("doc",)), "no field 'doc'; its fields: 'id'"),
    (task(payload=b"{}", unique=("doc",)), "its fields: none"),
    (task(payload=b"[5]", unique=("doc",)), "payload is no object"),
    (task(payload=b"null", unique=("doc",)), "payload is no object"),
    (task(payload=b"[" * 50_000 + b"]" * 50_000, unique=True), "nested too deep"),
    (task(payload=b"9" * 5_000, unique=True), "cannot be compared"),
    (task(on_conflict="replace"), "nothing is unique"),
    (task(on_conflict="reject", idempotency_key="a"), "nothing is unique"),
]


@pytest.mark.parametrize(("bad", "says"), WRONG)
async def test_wrong_keys_are_refused_and_nothing_is_stored(door: Door, bad: NewTask, says: str) -> None:
    with pytest.raises(InvalidTask, match=says) as caught:
        await door.accept(reindex(), bad)
    assert caught.value.index == 1
    assert await door.live() == []
