"""Settle with results in Redis: they are there before the commit, of the outcome that counts, or else in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from scripts.services import PrivateRedis
from tacoq_manager.settings import Settings
from tacoq_manager.store import settle as store
from tacoq_manager.store import tasks
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.transitions import Transition, complete
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.http import ErrorInfo, TaskFilter, TaskView
from tacoq_protocol.messages import Completed, Failed, Returned, ReturnReason
from tacoq_protocol.states import TaskState
from tests.stages.floor import Floor, standing

NOW = datetime(2030, 5, 10, 12, tzinfo=UTC)


@pytest_asyncio.fixture
async def redis(private_redis: PrivateRedis) -> AsyncIterator[Redis]:
    """The test's own connection."""
    async with Redis.from_url(private_redis.redis_url) as client:
        yield client


@pytest_asyncio.fixture
async def kept(database: str, hub: MemoryHub, private_redis: PrivateRedis) -> AsyncIterator[Floor]:
    """A floor whose results are in Redis, and whose session knows the kind."""
    settings = Settings(database_url=database, results_url=private_redis.redis_url)
    async with standing(settings, lambda name: MemoryBroker(hub, name)) as floor:
        await floor.manager.results.open()
        floor.join("k")
        yield floor


async def column(floor: Floor, task_id: UUID) -> bytes | None:
    """What Postgres has of the result of a final task."""
    found: bytes | None = await floor.connection.fetchval("SELECT result FROM task_history WHERE id = $1", task_id)
    return found


async def looked_up(floor: Floor, task_id: UUID) -> TaskView:
    (view,) = await tasks.views(floor.manager.database, [task_id])
    await floor.manager.results.fill([view])
    return view


def result_of(view: TaskView) -> bytes:
    return bytes(view.result or b"")


async def test_the_state_is_in_postgres_and_the_result_in_redis(kept: Floor) -> None:
    (task_id,) = await kept.accept()
    await kept.dispatch()
    await kept.report(Completed(task_id, 1, NOW, 0.1, b'{"a":1}'))
    assert await kept.state(task_id) == "completed"
    assert await column(kept, task_id) is None
    assert result_of(await looked_up(kept, task_id)) == b'{"a":1}'


async def test_the_error_of_a_failure_stays_in_postgres(kept: Floor, redis: Redis) -> None:
    (task_id,) = await kept.accept()
    await kept.dispatch()
    await kept.report(Failed(task_id, 1, NOW, 0.1, 0, ErrorInfo("ValueError", "no"), False))
    await redis.flushall()
    view = await looked_up(kept, task_id)
    assert (view.state, view.error, view.result_expired) == (TaskState.FAILED, ErrorInfo("ValueError", "no"), False)


async def test_a_result_is_in_redis_before_the_commit_that_shows_it(
    kept: Floor, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task_id,) = await kept.accept()
    await kept.dispatch()
    seen = []
    apply = store.apply

    async def applied(connection: HotConnection, moves: list[Transition], *more: Any) -> list[store.Applied]:
        seen.append(await redis.get(f"tacoq:result:{task_id}:1"))
        return await apply(connection, moves, *more)

    monkeypatch.setattr(store, "apply", applied)
    await kept.report(Completed(task_id, 1, NOW, 0.1, b"5"))
    assert seen == [b"5"]


async def test_each_try_of_a_commit_puts_the_results_anew(
    kept: Floor, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres may be away for longer than results are kept."""
    (task_id,) = await kept.accept()
    await kept.dispatch()
    apply, tries = store.apply, []

    async def applied(connection: HotConnection, moves: list[Transition], *more: Any) -> list[store.Applied]:
        tries.append(moves)
        if len(tries) == 1:
            await redis.flushall()
            raise DatabaseUnavailable("away")
        return await apply(connection, moves, *more)

    monkeypatch.setattr(store, "apply", applied)
    monkeypatch.setattr("tacoq_manager.settle.RETRY_SECONDS", 0.0)
    await kept.report(Completed(task_id, 1, NOW, 0.1, b"5"))
    assert len(tries) == 2
    assert result_of(await looked_up(kept, task_id)) == b"5"


async def test_a_late_report_of_an_earlier_release_changes_no_result(kept: Floor) -> None:
    (task_id,) = await kept.accept()
    await kept.dispatch()
    await kept.report(Returned(task_id, 1, ReturnReason.SHUTDOWN))
    await kept.dispatch()
    (release,) = [release.release for release in kept.releases][1:]
    await kept.report(Completed(task_id, release, NOW, 0.1, b'"counts"'))
    await kept.report(Completed(task_id, 1, NOW, 0.1, b'"late"'))
    assert result_of(await looked_up(kept, task_id)) == b'"counts"'


async def test_while_redis_is_away_results_are_in_postgres_and_nothing_waits(
    kept: Floor, private_redis: PrivateRedis
) -> None:
    before, during = await kept.accept(2)
    await kept.dispatch()
    await kept.report(Completed(before, 1, NOW, 0.1, b"1"))
    private_redis.kill()
    await kept.report(Completed(during, 1, NOW, 0.1, b"2"))
    assert await column(kept, during) == b"2"
    assert result_of(await looked_up(kept, during)) == b"2"
    assert b"tacoq_results_fallen_back_total 1.0" in kept.manager.metrics.text()

    # What is in Redis is not said to be gone, nor held against the others that are waited for.
    views, live = await tasks.ended(kept.manager.database, kept.manager.results, [before, during])
    assert ([view.id for view in views], live) == ([during], {before})

    private_redis.start()
    assert await kept.manager.results.step() == 1
    views, live = await tasks.ended(kept.manager.database, kept.manager.results, [before, during])
    expired = {view.id: view.result_expired for view in views}
    assert expired == {before: True, during: False}, "a kill -9 right after the write: the snapshot did not have it"


async def test_a_list_of_tasks_says_nothing_of_results(kept: Floor) -> None:
    (task_id,) = await kept.accept()
    await kept.dispatch()
    await kept.report(Completed(task_id, 1, NOW, 0.1, b"1"))
    page = await tasks.find(kept.manager.database, TaskFilter())
    assert [(view.id, view.result_expired) for view in page.tasks] == [(task_id, False)]


async def test_what_completes_while_somebody_waits_is_told_with_its_result(kept: Floor) -> None:
    """From the report at hand, without a look at Redis."""
    (task_id,) = await kept.accept()
    await kept.dispatch()
    moves = [complete(Completed(task_id, 1, NOW, 0.1, b'{"sum":5}'), kept.session)]
    assert await kept.manager.results.put(moves)
    (applied,) = await store.apply(kept.manager.database.settle, moves, lambda _: True, True)
    assert applied.view == await looked_up(kept, task_id)
    assert await column(kept, task_id) is None
