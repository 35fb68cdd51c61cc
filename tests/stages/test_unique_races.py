"""Unique keys at the same moment: publishes of two managers, claims, ends and replaces that wait for each other."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tacoq_manager import transitions as moves
from tacoq_manager.store import claim, leader, settle
from tacoq_manager.store.claim import Lane
from tacoq_manager.validate import fingerprint
from tacoq_protocol.http import Accepted, ErrorInfo
from tacoq_protocol.messages import Failed, KindSpec
from tacoq_protocol.states import TaskState
from tests.stages.doors import Door, reindex, replacing, task
from tests.stages.floor import Floor
from tests.support.eventually import eventually

SCHEDULED, PENDING = TaskState.SCHEDULED, TaskState.PENDING


async def test_two_managers_at_the_same_moment_make_one_live_task_per_key(door: Door, other_door: Door) -> None:
    """Opposite orders, replaced rows too: none deadlocks, and each key has one task."""
    for attempt in range(20):
        docs = [f"{attempt}-{number}" for number in range(20)]
        orders = (docs, docs[::-1], docs[10:] + docs[:10])
        one, other, third = await asyncio.gather(
            door.accept(*(replacing(doc, why="one") for doc in orders[0])),
            other_door.accept(*(replacing(doc, why="other") for doc in orders[1])),
            other_door.accept(*(reindex(doc) for doc in orders[2])),
        )
        ids = dict(zip(orders[0], (answer.id for answer in one), strict=True))
        assert dict(zip(orders[1], (answer.id for answer in other), strict=True)) == ids
        assert dict(zip(orders[2], (answer.id for answer in third), strict=True)) == ids
    (counted,) = await door.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert counted["deadlocks"] == 0


async def test_publish_while_the_task_is_just_ending_makes_a_new_one(door: Door, lock: Any) -> None:
    """It waits for the row to replace it, finds it gone, and the key free."""
    first, second = replacing(why="first"), replacing(why="second")
    await door.accept(first)
    await lock.fetch("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", first.id)
    accepting = asyncio.create_task(door.accept(second))
    await door.until_waiting(1)
    await lock.execute("DELETE FROM tasks WHERE id = $1", first.id)
    await lock.execute("COMMIT")
    assert await accepting == [Accepted(second.id, PENDING)]


async def test_publish_while_the_task_is_just_claimed_returns_it(door: Door, lock: Any) -> None:
    first, second = replacing(why="first"), replacing(why="second")
    await door.accept(first)
    await lock.execute("UPDATE tasks SET state = 'queued', release = 1, queued_at = now() WHERE id = $1", first.id)
    accepting = asyncio.create_task(door.accept(second))
    await door.until_waiting(1)
    await lock.execute("COMMIT")
    assert await accepting == [Accepted(first.id, TaskState.QUEUED, duplicate=True)]
    assert await door.payload(first.id) == bytes(first.payload)


async def test_task_that_a_replace_moved_to_another_queue_is_not_claimed_from_the_old_one(
    door: Door, lock: Any
) -> None:
    """Its message would go to the old queue's workers."""
    first = reindex(queue="old")
    await door.accept(first)
    me = uuid4()
    lead = await leader.take(door.database.leader, me)
    assert isinstance(lead, leader.Taken)
    await lock.execute("UPDATE tasks SET queue = 'new' WHERE id = $1", first.id)
    takes = [claim.Take(Lane("old", "k", "", 0), 1)]
    claiming = asyncio.create_task(
        claim.claim(door.database.claim, epoch=lead.epoch, holder=me, limits=0, queue="old", takes=takes)
    )
    await door.until_waiting(1, "claim")
    await lock.execute("COMMIT")
    assert (await claiming).tasks == []
    assert (await door.row(first.id))["state"] == "pending"


async def test_task_behind_one_that_is_put_off_under_a_claim_is_released(floor: Floor, lock: Any) -> None:
    """The claim finds nothing, and yet its lane is not empty."""
    floor.join("k", slots=1)
    (first,) = await floor.accept(unique=True)
    (second,) = await floor.accept()

    async def waiting(count: int) -> bool:
        found = await floor.connection.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return len(found) == count

    await lock.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", first)
    replacing = asyncio.create_task(floor.accept(unique=True, on_conflict="replace", delay=60.0))
    await eventually(lambda: waiting(1), what="the replace waits for the row")
    claiming = asyncio.create_task(floor.manager.dispatcher.step())
    await eventually(lambda: waiting(2), what="the claim waits for the row, too")
    await lock.close()
    assert await replacing == [first]
    assert await claiming + await floor.manager.dispatcher.step() == 1
    assert [await floor.state(id) for id in (first, second)] == ["scheduled", "queued"]


async def test_settle_of_many_and_replace_of_the_same_wait_for_each_other_in_one_order(door: Door) -> None:
    """Rows of a batch are locked by id, whatever the order of their keys."""
    spec = KindSpec("k", max_attempts=100)
    error = ErrorInfo("E", "m")
    docs = [f"{number}" for number in range(30)]
    firsts = [reindex(doc) for doc in docs]
    await door.accept(*firsts)
    for attempt in range(10):
        await door.fetch("UPDATE tasks SET state = 'queued', release = release + 1, queued_at = now()")
        rows = await door.fetch("SELECT id, release FROM tasks")
        reports = [
            moves.fail(Failed(row["id"], row["release"], datetime.now(UTC), 1.0, 0, error, True), uuid4(), spec, 60.0)
            for row in rows
        ]
        await asyncio.gather(
            settle.apply(door.database.settle, reports),
            door.accept(*(replacing(doc, why=str(attempt)) for doc in reversed(docs))),
        )
    (counted,) = await door.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert counted["deadlocks"] == 0


async def test_task_without_keys_that_is_just_being_accepted_elsewhere_is_a_resend(door: Door, lock: Any) -> None:
    """It came in another request, without any keys: nothing made this one wait before its insert."""
    plain = task(queue="q")
    await lock.execute(
        "INSERT INTO tasks (id, kind, queue, state, run_at, payload, fingerprint)"
        " VALUES ($1, 'k', 'q', 'pending', now(), $2, $3)",
        plain.id,
        bytes(plain.payload),
        fingerprint(plain, bytes(plain.payload)),
    )
    keyed = reindex()
    accepting = asyncio.create_task(door.accept(plain, keyed))
    await door.until_waiting(1)
    await lock.execute("COMMIT")
    assert await accepting == [Accepted(plain.id, PENDING, duplicate=True), Accepted(keyed.id, PENDING)]
