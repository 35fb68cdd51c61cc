"""Claims whose answers are lost: what they took is released again at once, and nothing that somebody published."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from tacoq_manager.store import claim as store
from tacoq_manager.store import leader
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_protocol.errors import PublishUnconfirmed
from tests.stages.floor import Floor
from tests.support.eventually import eventually

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def lose_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, claims commit and their connection breaks before the answer."""
    claim = store.claim

    async def committed(*arguments: Any, **options: Any) -> store.Batch:
        await claim(*arguments, **options)
        raise DatabaseUnavailable("the connection broke after the commit")

    return lambda: monkeypatch.setattr(store, "claim", committed)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, claims are answered again."""
    claim = store.claim
    return lambda: monkeypatch.setattr(store, "claim", claim)


async def test_tasks_of_a_lost_claim_are_released_at_once(
    floor: Floor, lose_answers: Callable[[], None], answered: Callable[[], None]
) -> None:
    floor.join("k", slots=4)
    published = await floor.accept()
    await floor.dispatch()
    taken = await floor.accept(2)
    lose_answers()
    with pytest.raises(DatabaseUnavailable):
        await floor.manager.dispatcher.step()
    assert [await floor.state(task_id) for task_id in taken] == ["queued", "queued"]
    answered()
    assert await floor.dispatch() == 2
    assert [(release.task_id, release.release) for release in floor.releases[1:]] == [(id, 2) for id in taken]
    assert (await floor.row(published[0]))["release"] == 1
    assert floor.manager.in_flight.queue("default") == 3


async def test_claim_that_is_still_at_work_on_its_broken_connection_is_waited_for(floor: Floor, lock: Any) -> None:
    """The server does not look whether anybody is there until it has an answer to write."""
    floor.join("k")
    (task_id,) = await floor.accept()
    await lock.execute("SELECT FROM tasks FOR UPDATE")
    claiming = asyncio.create_task(floor.manager.dispatcher.step())

    async def waiting(count: int) -> bool:
        return bool(await floor.connection.fetchval(WAITING) == count)

    await eventually(lambda: waiting(1), what="the claim waits for the row")
    connection = floor.manager.database.claim._connection
    assert connection is not None
    connection.terminate()
    with pytest.raises(DatabaseUnavailable):
        await claiming
    releasing = asyncio.create_task(floor.dispatch())
    await eventually(lambda: waiting(2), what="the next round waits for the claim")
    await lock.close()
    assert await releasing == 1
    assert (await floor.row(task_id))["release"] == 2


async def unconfirmed(*_: object, **__: object) -> None:
    raise PublishUnconfirmed("not confirmed")


async def away(*_: object) -> None:
    raise DatabaseUnavailable("away")


async def test_publish_that_could_not_be_given_back_is_so_when_postgres_is_back(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    with monkeypatch.context() as fault:
        fault.setattr(floor.manager.broker, "publish", unconfirmed)
        fault.setattr("tacoq_manager.settle.store.apply", away)
        with pytest.raises(DatabaseUnavailable):
            await floor.manager.dispatcher.step()
    assert await floor.state(task_id) == "queued"
    assert await floor.dispatch() == 1
    assert floor.releases[0].release == 2


async def test_what_may_run_once_only_is_not_given_back_when_postgres_is_back_either(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may have it: only the rescue can tell."""
    floor.join("k")
    (once,), (again,) = await floor.accept(max_attempts=1), await floor.accept()
    with monkeypatch.context() as fault:
        fault.setattr(floor.manager.broker, "publish", unconfirmed)
        fault.setattr("tacoq_manager.settle.store.apply", away)
        with pytest.raises(DatabaseUnavailable):
            await floor.manager.dispatcher.step()
    assert await floor.dispatch() == 1
    assert [release.task_id for release in floor.releases] == [again]
    assert await floor.state(once) == "queued"


async def test_nothing_is_forgotten_because_the_lead_had_just_run_out(
    floor: Floor, lose_answers: Callable[[], None], answered: Callable[[], None]
) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    lose_answers()
    with pytest.raises(DatabaseUnavailable):
        await floor.manager.dispatcher.step()
    answered()
    await floor.connection.execute("UPDATE leader SET expires_at = now()")  # and this manager does not know it yet
    assert await floor.dispatch() == 0
    assert await floor.state(task_id) == "queued"
    await lead_anew(floor)
    assert await floor.dispatch() == 1


async def lead_anew(floor: Floor) -> None:
    await floor.connection.execute("UPDATE leader SET expires_at = now()")
    floor.manager.leader._until = 0.0
    await eventually(floor.manager.leader.step)


async def test_lead_that_ran_out_while_postgres_was_away_and_is_taken_anew_does_not_forget(
    floor: Floor, lose_answers: Callable[[], None], answered: Callable[[], None]
) -> None:
    floor.join("k")
    await floor.accept()
    lose_answers()
    with pytest.raises(DatabaseUnavailable):
        await floor.manager.dispatcher.step()
    answered()
    await lead_anew(floor)
    assert await floor.dispatch() == 1
    assert floor.releases[0].release == 2


async def another_leads_and_releases(floor: Floor) -> UUID:
    """Another manager takes the lead and claims the one pending task; return its id."""
    other, connection = uuid4(), floor.manager.database.upkeep
    await floor.connection.execute("UPDATE leader SET expires_at = now()")
    taken = await leader.take(connection, other)
    assert isinstance(taken, leader.Taken)
    takes = [store.Take(store.Lane("default", "k", "", 0), 1)]
    batch = await store.claim(connection, epoch=taken.epoch, holder=other, limits=0, queue="default", takes=takes)
    (claimed,) = batch.tasks
    return claimed.release.task_id


@pytest.mark.parametrize("late", [False, True])
async def test_what_another_leader_released_meanwhile_is_left_to_it(
    late: bool, floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the lost claim is known as lost before this manager leads again, or after."""
    sent, broken = asyncio.Event(), asyncio.Event()

    async def lost(*_: Any, **__: Any) -> store.Batch:
        sent.set()
        await broken.wait()
        raise DatabaseUnavailable("the connection broke")

    floor.join("k")
    await floor.accept()
    with monkeypatch.context() as fault:
        fault.setattr(store, "claim", lost)
        claiming = asyncio.create_task(floor.manager.dispatcher.step())
        await sent.wait()
    if not late:
        broken.set()
        await asyncio.wait([claiming])
    others = await another_leads_and_releases(floor)
    await lead_anew(floor)
    broken.set()
    with pytest.raises(DatabaseUnavailable):
        await claiming
    assert await floor.dispatch() == 0
    assert await floor.state(others) == "queued"
