"""Limits hold over a change of leader: two managers, two workers, and leaders that are killed under load."""

from __future__ import annotations

from itertools import combinations

import aiohttp
import pytest

from tacoq_publisher import Publisher
from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.handlers import nap
from tests.faults.ledger import Ledger

AT_ONCE = 4
RATE = 8  # a second
TASKS = 120


@pytest.mark.timeout(240)
async def test_no_more_run_and_no_more_are_released_than_allowed_while_leaders_die(
    field: Field, ledger: Ledger
) -> None:
    await field.up("worker", "worker")
    await field.add_manager()
    limits = {"concurrency": AT_ONCE, "rate": f"{RATE}/s"}
    async with aiohttp.ClientSession() as http:
        async with http.put(f"{field.seats[1].url}/v1/queues/default/limits", json=limits) as answer:
            assert answer.status == 200
        for seat in field.seats:
            async with http.get(f"{seat.url}/v1/queues") as answer:
                (queue,) = [each for each in (await answer.json())["queues"] if each["name"] == "default"]
                assert queue["limits"]["concurrency"] == AT_ONCE
    handles = []
    async with Publisher(field.seats[0].url) as one, Publisher(field.seats[1].url) as two:
        for number in range(TASKS):
            if number in (TASKS // 4, TASKS // 2):
                leader = await field.leading()
                await leader.kill()
                await field.leading(beside=leader)
                await leader.begin_and_wait()
            handles.append(await ledger.publish((one, two)[number % 2], nap.task(0.2), 0.2))
    await check(field, ledger)
    runs = await field.effects.runs()
    moments = sorted(
        [(run.started_at, 1) for run in runs] + [(run.ended_at, -1) for run in runs if run.ended_at is not None]
    )
    at_once = [sum(change for _, change in moments[: place + 1]) for place in range(len(moments))]
    assert 1 < max(at_once) <= AT_ONCE
    rows = await field.rows("SELECT queued_at FROM task_history ORDER BY queued_at")
    released = [row["queued_at"].timestamp() for row in rows]
    for first, last in combinations(range(TASKS), 2):
        assert last - first + 1 <= RATE * (1 + released[last] - released[first]) + 0.01
