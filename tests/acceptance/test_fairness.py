"""Whose turn it is with 100,000 tasks in line: keys take turns, priority goes before them, a lane keeps its order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from tacoq_protocol.ids import new_task_id
from tacoq_publisher import Publisher, TaskHandle
from tests.acceptance.handlers import nap
from tests.support.eventually import eventually
from tests.support.systems import System

MANY = 100_000

# As if each had been accepted: to do so would take most of the test.
_PILE = """
INSERT INTO tasks (id, kind, queue, fairness_key, state, run_at, payload, fingerprint)
SELECT id, 'nap', 'default', 'big', 'pending', now(), '{"seconds": 0.05}', '' FROM unnest($1::uuid[]) AS u (id)
"""

_ROUNDS = """
SELECT count(DISTINCT queued_at) FROM (
    SELECT queue, queued_at FROM tasks UNION ALL SELECT queue, queued_at FROM task_history
) AS t
WHERE queue = 'default' AND queued_at > $1 AND queued_at < $2
"""


class Line:
    """The line of key "big", at work."""

    def __init__(self, connection: Any, tacoq: Publisher) -> None:
        self.connection = connection
        self.tacoq = tacoq

    async def released_at(self, handle: TaskHandle[Any]) -> datetime:
        await handle.result(30)
        found: datetime = await self.connection.fetchval("SELECT queued_at FROM task_history WHERE id = $1", handle.id)
        return found

    async def rounds_until(self, **options: Any) -> int:
        """Publish a task; return how many claims went before it of all that began after it was accepted."""
        handle = await self.tacoq.publish(nap.task(0.0), **options)
        answered = await self.connection.fetchval("SELECT clock_timestamp()")
        rounds: int = await self.connection.fetchval(_ROUNDS, answered, await self.released_at(handle))
        return rounds

    async def waiting(self) -> int:
        count: int = await self.connection.fetchval("SELECT count(*) FROM tasks WHERE state = 'pending'")
        return count


@pytest.fixture
async def line(system: System) -> AsyncIterator[Line]:
    connection = await asyncpg.connect(system.database)
    await connection.execute(_PILE, [new_task_id() for _ in range(MANY)])
    await connection.execute("ANALYZE tasks")
    async with Publisher(system.url) as tacoq:
        first = await tacoq.publish(nap.task(0.05), fairness_key="big")  # and the leader knows of all of them
        at_work = Line(connection, tacoq)
        await eventually(lambda: begun(at_work), 30)
        yield at_work
        await connection.execute(
            "DELETE FROM tasks WHERE fairness_key = 'big' AND state = 'pending' AND id <> $1", first.id
        )
        await first.result(30)
    await connection.close()


async def begun(line: Line) -> bool:
    return await line.waiting() < MANY - 40


async def test_key_with_100000_tasks_delays_another_keys_one_by_a_round_of_claims(line: Line) -> None:
    """By the one that goes on when it is accepted, that is, and the one in which it may not have its turn yet."""
    for key in ("small", "other", ""):
        assert await line.rounds_until(fairness_key=key) <= 2
    assert await line.waiting() > MANY / 2, "they were accepted before it"


async def test_higher_priority_goes_before_100000_tasks_of_the_same_key(line: Line) -> None:
    for priority in (1, 5, 9):
        assert await line.rounds_until(fairness_key="big", priority=priority) <= 2


async def test_tasks_of_a_lane_are_released_as_they_were_accepted(line: Line) -> None:
    handles = [await line.tacoq.publish(nap.task(0.0), fairness_key="small") for _ in range(40)]
    released = [await line.released_at(handle) for handle in handles]
    assert all(before <= after for before, after in pairwise(released))
    assert await line.waiting() > MANY / 2
