"""Idempotency keys: one task for a kind and key within the window, whoever asks, in whatever order."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tacoq_manager.store import prune as store
from tacoq_manager.upkeep import prune
from tacoq_protocol.errors import InvalidTask, TaskConflict
from tacoq_protocol.http import Accepted, NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.states import TaskState
from tests.stages.doors import Door, task

PENDING = TaskState.PENDING


def charge(payload: bytes = b"1", **options: Any) -> NewTask:
    return task(payload=payload, **{"idempotency_key": "order-17", **options})


async def test_same_key_is_answered_with_the_first_task(door: Door) -> None:
    first, second = charge(), charge()
    assert await door.accept(first) == [Accepted(first.id, PENDING)]
    assert await door.accept(second) == [Accepted(first.id, PENDING, duplicate=True)]
    assert await door.live() == [first.id]


async def test_same_key_is_answered_with_the_first_task_when_that_has_ended(door: Door) -> None:
    first = charge()
    await door.accept(first)
    await door.complete(first.id)
    assert await door.accept(charge()) == [Accepted(first.id, TaskState.COMPLETED, duplicate=True)]
    assert await door.live() == []


async def test_other_kind_is_another_key(door: Door) -> None:
    first = charge()
    other = NewTask(id=new_task_id(), kind="other", idempotency_key="order-17")
    await door.accept(first)
    assert not (await door.accept(other))[0].duplicate


async def test_other_payload_gets_the_first_task_and_the_answer_says_so(door: Door) -> None:
    first = charge(b"1")
    await door.accept(first)
    assert await door.accept(charge(b"2")) == [Accepted(first.id, PENDING, duplicate=True, differs=True)]
    assert await door.payload(first.id) == b"1"


async def test_resends_of_winner_and_loser_are_answered_as_before(door: Door) -> None:
    winner, loser = charge(), charge()
    await door.accept(winner)
    await door.accept(loser)
    for _ in range(2):
        assert [one.id for one in await door.accept(winner)] == [winner.id]
        assert [one.id for one in await door.accept(loser)] == [winner.id]
        await door.complete(winner.id)
    await door.forget_keys()
    assert [one.id for one in await door.accept(loser)] == [winner.id], "its id is known beyond the window of the key"
    assert await door.live() == []


async def test_same_id_with_other_content_is_a_conflict_also_for_what_was_absorbed(door: Door) -> None:
    first, second = charge(), charge()
    await door.accept(first)
    await door.accept(second)
    for known in (first, second):
        with pytest.raises(TaskConflict, match="other content") as caught:
            await door.accept(task(known.id, b"2", idempotency_key="order-17"))
        assert caught.value.task_id == known.id


async def test_key_past_its_window_is_free_before_it_is_pruned(door: Door) -> None:
    first, second, third = charge(), charge(), charge()
    await door.accept(first)
    await door.end_windows()
    assert await door.accept(second) == [Accepted(second.id, PENDING)]
    assert await door.accept(third) == [Accepted(second.id, PENDING, duplicate=True)], "a window of its own"


async def test_window_counts_from_the_accept_of_the_first(door: Door) -> None:
    await door.accept(charge(idempotency_window=3600.0))
    await door.accept(charge(idempotency_window=7200.0))
    (row,) = await door.fetch("SELECT expires_at - now() AS left FROM idempotency")
    assert timedelta(minutes=50) < row["left"] <= timedelta(hours=1)


async def test_same_key_several_times_in_a_batch_and_in_a_group_is_one_task(door: Door) -> None:
    answers = await door.answers([charge(), charge(), task()], [charge(delay=1.0)], [charge()])
    assert len({one.id for answer in answers for one in answer}) == 2
    assert [one.duplicate for one in answers[0]] == [False, True, False]
    assert len(await door.live()) == 2


async def test_two_managers_at_the_same_moment_make_one_task_per_key(door: Door, other_door: Door) -> None:
    """Real transactions, in opposite order of keys, again and again: none deadlocks, each key has one task."""
    for attempt in range(20):
        keys = [f"{attempt}-{number}" for number in range(20)]
        batches = [
            [charge(idempotency_key=key) for key in order] for order in (keys, keys[::-1], keys[10:] + keys[:10])
        ]
        one, other, third = await asyncio.gather(
            door.accept(*batches[0]), other_door.accept(*batches[1]), other_door.accept(*batches[2])
        )
        ids = dict(zip(keys, (answer.id for answer in one), strict=True))
        assert dict(zip(keys[::-1], (answer.id for answer in other), strict=True)) == ids
        assert sorted(answer.id for answer in third) == sorted(ids.values())
        assert sum(not answer.duplicate for answer in (*one, *other, *third)) == 20
    (counted,) = await door.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert counted["deadlocks"] == 0


async def test_accept_that_waits_for_another_with_its_key_sees_that_ones_task(door: Door, other_door: Door) -> None:
    first, second = charge(), charge()
    async with door.holding_keys():
        one, other = (asyncio.create_task(at.accept(sent)) for at, sent in ((door, first), (other_door, second)))
        await door.until_waiting(2)
    assert {(await one)[0].id, (await other)[0].id} in ({first.id}, {second.id})


async def test_pruned_are_those_past_their_window_alone(door: Door) -> None:
    await door.accept(*(charge(idempotency_key=f"old-{number}") for number in range(5)))
    await door.accept(charge(idempotency_key="old-0"))
    await door.end_windows()
    await door.fetch("UPDATE absorbed SET expires_at = now()")
    await door.accept(charge(idempotency_key="new"), charge(idempotency_key="old-4"))
    await door.accept(charge(idempotency_key="new"))
    assert await store.prune(door.database.upkeep, 3) == 3 + 1, "so many of each, at once"
    assert [await prune.step(door.database.upkeep) for _ in range(2)] == [1, 0]
    assert {row["key"] for row in await door.fetch("SELECT key FROM idempotency")} == {"new", "old-4"}
    assert len(await door.fetch("SELECT id FROM absorbed")) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"idempotency_key": None, "idempotency_window": 60.0}, "without an idempotency_key"),
        ({"idempotency_window": 31 * 86400.0}, "TACOQ_RETENTION"),
    ],
)
async def test_wrong_key_is_refused_and_nothing_is_stored(door: Door, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidTask, match=says) as caught:
        await door.accept(task(), charge(**options))
    assert caught.value.index == 1
    assert await door.live() == []
