"""Leading: who leads knows what waits and what is out, and who does not any more releases nothing."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tacoq_manager.aside import Aside
from tacoq_manager.lanes import Lanes
from tacoq_manager.store import claim as claims
from tacoq_manager.store import leader as store
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.store.leader import LEASE_SECONDS
from tacoq_protocol.broker import Declared
from tests.stages.floor import Floor
from tests.support.eventually import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_manager_that_lost_its_lead_claims_nothing(floor: Floor) -> None:
    """It believes to lead still; the database knows better."""
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.connection.execute("UPDATE leader SET expires_at = now()")
    taken = await store.take(floor.manager.database.upkeep, uuid4())
    assert isinstance(taken, store.Taken)
    assert taken.epoch == 2
    assert floor.manager.leader.epoch == 1
    assert await floor.dispatch() == 0
    assert await floor.state(task_id) == "pending"


async def test_lead_that_runs_out_while_a_queue_is_declared_is_no_fault(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare = floor.manager.broker.declare

    async def slowly(things: Declared) -> None:
        await declare(things)
        await floor.connection.execute("UPDATE leader SET expires_at = now()")
        floor.manager.leader._until = 0.0

    floor.join("k")
    (task_id,) = await floor.accept()
    monkeypatch.setattr(floor.manager.broker, "declare", slowly)
    assert await floor.dispatch() == 0
    assert await floor.state(task_id) == "pending"


async def test_what_was_claimed_before_the_lead_ran_out_is_given_back(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager that stood still after its claim: the next one may have taken it for lost."""
    claim = claims.claim

    async def freezing(*arguments: Any, **named: Any) -> claims.Batch:
        batch = await claim(*arguments, **named)
        floor.manager.leader._until = 0.0
        return batch

    floor.join("k")
    (task_id,) = await floor.accept()
    monkeypatch.setattr(claims, "claim", freezing)
    assert await floor.dispatch() == 0
    assert await floor.state(task_id) == "pending"
    assert await floor.worker.message_count(floor.manager.topology.task_queue_name("default")) == 0
    assert floor.releases == []


async def test_lead_is_not_held_by_who_could_not_learn_what_is_out(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recount = floor.manager.recount.step

    async def away() -> int:
        raise DatabaseUnavailable("away")

    leader = floor.manager.leader
    await leader.give_up()
    monkeypatch.setattr(floor.manager.recount, "step", away)
    with pytest.raises(DatabaseUnavailable):
        await leader.step()
    monkeypatch.setattr(floor.manager.recount, "step", recount)
    await leader.step()
    assert leader.epoch is None
    await floor.connection.execute("UPDATE leader SET expires_at = now()")  # it runs out
    await leader.step()
    assert leader.epoch == 3


async def test_lead_is_held_while_its_taker_learns_what_is_out(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes: who let it run out meanwhile would never lead."""
    leader, learnt = floor.manager.leader, asyncio.Event()

    async def slowly() -> int:
        return len([await learnt.wait()])

    await leader.give_up()
    given_up = await floor.connection.fetchval("SELECT clock_timestamp()")
    monkeypatch.setattr(floor.manager.recount, "step", slowly)
    taking = asyncio.create_task(leader.step())

    async def past_the_first_lease() -> bool:
        row = await floor.connection.fetchrow("SELECT holder, clock_timestamp() AS now FROM leader")
        return bool(row["holder"] == leader.holder and row["now"] > given_up + timedelta(seconds=2 * LEASE_SECONDS))

    await eventually(past_the_first_lease, 30)
    left = await store.take(floor.manager.database.upkeep, uuid4())
    assert isinstance(left, float)
    assert 0 < left <= LEASE_SECONDS
    assert leader.epoch is None, "it does not know yet what is out"
    learnt.set()
    assert await taking == 1
    assert leader.epoch == 2


async def test_manager_that_does_not_lead_remembers_no_lanes(floor: Floor) -> None:
    """Nothing would ever take them out: one for each tenant of the application, say."""
    leader, lanes = floor.manager.leader, floor.manager.dispatcher._lanes
    floor.join("k")
    await floor.accept(fairness_key="gone")
    await leader.give_up()
    await floor.connection.execute("DELETE FROM tasks")
    await floor.accept(fairness_key="here")
    assert list(lanes._queues["default"][0]["k"]) == ["gone"]
    await leader.step()
    assert list(lanes._queues["default"][0]["k"]) == ["here"]
    assert await floor.dispatch() == 1


async def test_new_leader_learns_what_waits_and_what_is_out(floor: Floor) -> None:
    floor.join("k", slots=5)
    await floor.accept(8)
    await floor.dispatch()
    await floor.manager.leader.give_up()
    floor.manager.in_flight.forget()
    floor.manager.dispatcher._lanes = Lanes(Aside(time.monotonic))
    await floor.manager.leader.step()
    assert floor.manager.in_flight.queue("default") == 5
    assert floor.manager.dispatcher._lanes.queues() == ["default"]
    assert await floor.dispatch() == 0
