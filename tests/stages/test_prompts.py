"""Prompts: what one manager has to do for another that leads, told at once, and found by a recount when it got lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from tacoq_manager.manager import Manager
from tacoq_manager.settings import Settings
from tacoq_manager.store import prompts as store
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.leader import LEASE_SECONDS
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.http import NewTask
from tacoq_protocol.ids import new_task_id
from tests.stages.floor import Floor
from tests.support.eventually import eventually

LANE = Lane("default", "k", "", 0)


@pytest_asyncio.fixture
async def other(floor: Floor, hub: MemoryHub) -> AsyncIterator[Manager]:
    """A manager beside the floor's, which leads."""
    manager = Manager(floor.manager.settings, MemoryBroker(hub, "other manager"))
    await manager.broker.start()
    assert await manager.leader.step() == 0
    yield manager
    await manager.stop()


async def accept(manager: Manager, **options: object) -> None:
    task = NewTask(id=new_task_id(), kind="k", payload=msgspec.Raw(b"1"), queue="default", **options)  # type: ignore[arg-type]
    accepting = asyncio.ensure_future(manager.accepter.accept([task]))
    await asyncio.sleep(0)
    await manager.accepter.step()
    await accepting
    await manager.prompter.step()


def known(floor: Floor) -> list[str]:
    """Queues in which the leader knows of work."""
    return floor.manager.dispatcher._lanes.queues()


async def test_task_that_another_manager_accepts_is_released_at_once(floor: Floor, other: Manager) -> None:
    floor.join("k")
    await accept(other)
    await eventually(lambda: known(floor) == ["default"], what="the leader knows of it")
    assert await floor.dispatch() == 1


async def test_task_that_comes_due_earlier_than_the_leader_knew_is_not_late(floor: Floor, other: Manager) -> None:
    floor.join("k")
    await floor.accept(delay=3600.0)
    timer = asyncio.create_task(floor.manager.schedule.run())
    await accept(other, delay=0.01)
    await eventually(lambda: known(floor) == ["default"], what="it has come due")
    timer.cancel()
    assert await floor.dispatch() == 1


async def test_task_that_expires_earlier_than_the_leader_knew_is_expired(floor: Floor, other: Manager) -> None:
    await floor.accept(expires_in=3600.0)
    timer = asyncio.create_task(floor.manager.expiry.run())
    await accept(other, expires_in=0.01)

    async def expired() -> bool:
        return bool(await floor.connection.fetch("SELECT FROM task_history WHERE state = 'expired'"))

    await eventually(expired, what="the leader expired it")
    timer.cancel()


async def test_leader_keeps_to_itself_what_it_has_to_do(floor: Floor) -> None:
    floor.join("k")
    await floor.accept()
    assert not floor.manager.prompter._work.is_set()


async def test_what_gathers_goes_together_however_much_it_is(floor: Floor, other: Manager) -> None:
    """No notification of Postgres takes so much."""
    keys = [f"{number:>04} {'鍵' * 190}" for number in range(100)]
    for key in keys:
        other.prompter.lanes([LANE._replace(fairness_key=key)])
    assert await other.prompter.step() == len(keys)
    await eventually(lambda: known(floor) == ["default"])
    rings = floor.manager.dispatcher._lanes._queues["default"][0]
    await eventually(lambda: list(rings["k"]) == keys, what="each was told")


async def test_prompts_are_kept_while_postgres_is_away(floor: Floor, other: Manager) -> None:
    claim = other.database.claim
    await claim.fetch("SELECT 1")
    assert claim._connection is not None
    pid = claim._connection.get_server_pid()
    running = asyncio.create_task(other.prompter.run())
    await floor.connection.execute("SELECT pg_terminate_backend($1)", pid)
    other.prompter.lanes([LANE])
    await eventually(lambda: known(floor) == ["default"], what="it was told in the end")
    running.cancel()


async def test_prompts_that_postgres_refuses_are_dropped_and_later_ones_go_out(
    floor: Floor, other: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = store.send

    async def refused(*_: object) -> None:
        monkeypatch.setattr(store, "send", send)
        raise asyncpg.ProgramLimitExceededError("too many notifications in the NOTIFY queue")

    monkeypatch.setattr(store, "send", refused)
    running = asyncio.create_task(other.prompter.run())
    other.prompter.lanes([LANE])
    await eventually(lambda: store.send is send, what="the first is refused")
    other.prompter.lanes([LANE._replace(queue="later")])
    await eventually(lambda: known(floor) == ["later"])
    running.cancel()


async def test_leader_whose_connection_was_lost_finds_what_it_did_not_hear(floor: Floor, other: Manager) -> None:
    connection = floor.manager.database.leader._connection
    assert connection is not None
    await floor.connection.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    await eventually(connection.is_closed)
    await accept(other)
    assert known(floor) == []
    await floor.manager.leader.step()
    await eventually(lambda: known(floor) == ["default"], what="it looked for itself")
    await floor.connection.execute("DELETE FROM tasks")
    floor.manager.dispatcher._lanes.forget()
    await accept(other)
    await eventually(lambda: known(floor) == ["default"], what="it hears again")


async def test_prompt_that_nobody_understands_makes_the_leader_look(floor: Floor, other: Manager) -> None:
    await accept(other)
    await eventually(lambda: known(floor) == ["default"])
    floor.manager.dispatcher._lanes.forget()
    await floor.connection.execute("SELECT pg_notify('tacoq', '{\"of\": \"another version\"}')")
    await eventually(lambda: known(floor) == ["default"])


async def test_who_does_not_lead_looks_again_when_the_lease_it_saw_runs_out(floor: Floor, other: Manager) -> None:
    await floor.manager.leader.step()
    assert await other.leader.step() == 0
    assert LEASE_SECONDS / 2 < other.leader.pause() <= LEASE_SECONDS


async def test_lead_that_is_given_up_is_taken_at_once(database: str, hub: MemoryHub, floor: Floor) -> None:
    other = Manager(Settings(database_url=database), MemoryBroker(hub, "other manager"))
    await other.start()
    try:
        await eventually(lambda: other.leader.pause() > 1.0, what="it has seen the lease")
        await floor.manager.leader.give_up()
        await eventually(other.leader.vacant.is_set, what="it hears that nobody leads")
        await eventually(lambda: other.leader.epoch == 2)
    finally:
        await other.stop()
