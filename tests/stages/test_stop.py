"""Stop: a manager that is told to end finishes what it claimed, so that nothing has to wait for a lease."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tacoq_manager.store import claim as store
from tacoq_manager.store.engine import DatabaseUnavailable
from tests.stages.floor import Floor
from tests.support.eventually import eventually

GLANCE = 0.3  # seconds in which a stop that waits for nothing has ended


async def test_every_task_that_a_claim_under_way_takes_is_published_before_the_manager_ends(
    floor: Floor, lock: Any
) -> None:
    floor.join("k")
    ids = await floor.accept(3)
    await lock.execute("SELECT FROM tasks FOR UPDATE")
    floor.manager.running.begin("dispatch", floor.manager.dispatcher.run())

    async def claiming() -> bool:
        found = await floor.connection.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(found)

    await eventually(claiming, what="the claim waits for a row")
    stopping = asyncio.create_task(floor.manager.stop())
    await asyncio.wait([stopping], timeout=GLANCE)
    await lock.close()
    await stopping
    queued = await floor.connection.fetch("SELECT id FROM tasks WHERE state = 'queued' ORDER BY seq")
    assert [row["id"] for row in queued] == ids
    await eventually(lambda: [release.task_id for release in floor.releases] == ids)


async def test_nothing_more_is_claimed_once_the_manager_stops(floor: Floor) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.manager.dispatcher.finish()
    assert await floor.dispatch() == 0
    assert await floor.state(task_id) == "pending"


async def test_what_a_claim_took_whose_answer_is_lost_is_given_back_by_the_stop(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, committed, broken = store.claim, asyncio.Event(), asyncio.Event()

    async def answer_lost(*arguments: Any, **options: Any) -> store.Batch:
        await claim(*arguments, **options)
        committed.set()
        await broken.wait()
        raise DatabaseUnavailable("the connection broke after the commit")

    monkeypatch.setattr(store, "claim", answer_lost)
    floor.join("k")
    (task_id,) = await floor.accept()
    floor.manager.running.begin("dispatch", floor.manager.dispatcher.run())
    await committed.wait()
    stopping = asyncio.create_task(floor.manager.stop())
    await asyncio.wait([stopping], timeout=GLANCE)
    broken.set()
    await stopping
    assert await floor.state(task_id) == "pending"
