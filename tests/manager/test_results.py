"""Results in Redis, by the part of the store that keeps them there: a real Redis, emptied, full, killed and frozen."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio
from msgspec import UNSET, Raw
from redis.asyncio import Redis

from scripts.services import PrivateRedis
from tacoq_manager import transitions as moves
from tacoq_manager.store.redis_results import RedisResults
from tacoq_manager.store.results import Results, ResultsUnavailable, results_of
from tacoq_manager.transitions import Transition
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.http import ErrorInfo, TaskView
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Completed, Failed, KindSpec
from tacoq_protocol.states import TaskState

NOW = datetime(2030, 5, 10, 12, tzinfo=UTC)
SESSION = UUID(int=7)
DAY = timedelta(days=1)


@asynccontextmanager
async def results_in(url: str, namespace: str, *, ttl: timedelta = DAY) -> AsyncIterator[RedisResults]:
    results = RedisResults(url, ttl=ttl, namespace=namespace)
    try:
        await results.open()
        yield results
    finally:
        await results.close()


@pytest_asyncio.fixture
async def results(private_redis: PrivateRedis) -> AsyncIterator[RedisResults]:
    async with results_in(private_redis.redis_url, "t") as opened:
        yield opened


@pytest_asyncio.fixture
async def redis(private_redis: PrivateRedis) -> AsyncIterator[Redis]:
    """The test's own connection."""
    async with Redis.from_url(private_redis.redis_url) as client:
        yield client


def completed(task_id: UUID, result: bytes, *, release: int = 1) -> Transition:
    return moves.complete(Completed(task_id, release, NOW, 0.1, result), SESSION)


def failed(task_id: UUID) -> Transition:
    return moves.fail(Failed(task_id, 1, NOW, 0.1, 0, ErrorInfo("E", "m"), True), SESSION, KindSpec("k"), 1.0)


def view(task_id: UUID, *, release: int = 1, state: TaskState = TaskState.COMPLETED) -> TaskView:
    return TaskView(id=task_id, kind="k", queue="q", state=state, release=release, created_at=NOW, run_at=NOW)


async def test_what_is_put_fills_the_views_that_lack_it_and_no_others(results: RedisResults) -> None:
    one, two, in_postgres, live = (new_task_id() for _ in range(4))
    assert await results.put([completed(one, b'{"a": "\xc3\xa9"}'), failed(live), completed(two, b"null")])
    views = [view(one), view(two), view(in_postgres), view(live, state=TaskState.RUNNING)]
    views[2].result = Raw(b"3")
    await results.fill(views)
    assert [bytes(v.result or b"") for v in views[:3]] == [b'{"a": "\xc3\xa9"}', b"null", b"3"]
    assert views[3].result is UNSET
    assert not any(v.result_expired for v in views)


async def test_a_result_that_is_not_there_any_more_has_expired(results: RedisResults, redis: Redis) -> None:
    kept, lost = new_task_id(), new_task_id()
    await results.put([completed(kept, b"1"), completed(lost, b"2")])
    await redis.delete(f"t:result:{lost}:1")
    views = [view(lost), view(kept)]
    await results.fill(views)
    assert [v.result_expired for v in views] == [True, False]
    assert views[0].result is UNSET


async def test_without_a_redis_what_is_not_in_postgres_has_expired() -> None:
    views = [view(new_task_id()), view(new_task_id(), state=TaskState.FAILED)]
    await Results().fill(views)
    assert [v.result_expired for v in views] == [True, False]


async def test_a_late_report_of_an_earlier_release_leaves_the_result_of_the_later_one(results: RedisResults) -> None:
    task_id = new_task_id()
    await results.put([completed(task_id, b'"second"', release=2)])
    await results.put([completed(task_id, b'"first, late"', release=1)])
    found = view(task_id, release=2)
    await results.fill([found])
    assert bytes(found.result or b"") == b'"second"'


async def test_results_live_for_the_ttl_and_from_the_last_time_they_are_put(
    private_redis: PrivateRedis, redis: Redis
) -> None:
    task_id = new_task_id()
    async with results_in(private_redis.redis_url, "ttl", ttl=timedelta(hours=2)) as results:
        await results.put([completed(task_id, b"1")])
        key = f"ttl:result:{task_id}:1"
        assert 7_190 < await redis.ttl(key) <= 7_200
        await redis.expire(key, 5)
        await results.put([completed(task_id, b"1")])  # as when Postgres was away for the first try
        assert 7_190 < await redis.ttl(key) <= 7_200


async def test_a_batch_is_one_command_and_so_are_many_lookups(results: RedisResults, redis: Redis) -> None:
    ids = [new_task_id() for _ in range(1_000)]
    await redis.config_resetstat()
    assert await results.put([completed(id, b"%d" % place) for place, id in enumerate(ids)])
    views = [view(id) for id in ids]
    await results.fill(views)
    calls = {name: told["calls"] for name, told in (await redis.info("commandstats")).items()}
    assert (calls["cmdstat_eval"], calls["cmdstat_mget"]) == (1, 1)
    assert [bytes(v.result or b"") for v in views] == [b"%d" % place for place in range(1_000)]


async def test_results_as_large_as_they_may_be(results: RedisResults) -> None:
    ids = [new_task_id() for _ in range(40)]
    assert await results.put([completed(id, b'"%b"' % (b"x" * (1024 * 1024 - 2))) for id in ids])
    views = [view(id) for id in ids]
    await results.fill(views)
    assert {len(bytes(v.result or b"")) for v in views} == {1024 * 1024}


async def test_while_redis_is_away_nothing_is_put_and_nothing_is_said_to_have_expired(
    results: RedisResults, private_redis: PrivateRedis
) -> None:
    task_id = new_task_id()
    await results.put([completed(task_id, b"1")])
    private_redis.kill()
    assert not await results.put([completed(new_task_id(), b"1")])
    assert results.state == "away"
    lookup = view(task_id)
    with pytest.raises(ResultsUnavailable):
        await results.fill([lookup])
    assert not lookup.result_expired
    assert await results.step() == 0
    private_redis.start()
    assert await results.step() == 1
    assert results.state == "open"
    assert await results.put([completed(task_id, b"2")])
    await results.fill([lookup])
    assert bytes(lookup.result or b"") == b"2"


async def test_a_restart_between_two_batches_costs_neither(results: RedisResults, private_redis: PrivateRedis) -> None:
    assert await results.put([completed(new_task_id(), b"1")])
    private_redis.stop()
    private_redis.start()
    assert await results.put([completed(new_task_id(), b"1")])
    assert results.state == "open"


async def test_an_idle_manager_notices_that_redis_is_gone(results: RedisResults, private_redis: PrivateRedis) -> None:
    assert await results.step() == 0
    assert results.state == "open"
    private_redis.kill()
    assert await results.step() == 0
    assert results.state == "away"


async def test_one_that_stands_still_is_waited_for_once(results: RedisResults, private_redis: PrivateRedis) -> None:
    await results.step()
    private_redis.freeze()
    assert not await results.put([completed(new_task_id(), b"1")])
    private_redis.kill()  # from here on a call that asked it would say that it is refused
    assert not await results.put([completed(new_task_id(), b"1")])
    with pytest.raises(ResultsUnavailable, match=r"[Tt]imeout"):
        await results.fill([view(new_task_id())])


async def test_a_full_one_takes_nothing_and_still_gives_what_it_has(results: RedisResults, redis: Redis) -> None:
    task_id = new_task_id()
    await results.put([completed(task_id, b"1")])
    await redis.config_set("maxmemory", "1")
    try:
        assert not await results.put([completed(new_task_id(), b"1")])
        lookup = view(task_id)
        await results.fill([lookup])
        assert bytes(lookup.result or b"") == b"1"
        assert await results.step() == 0
    finally:
        await redis.config_set("maxmemory", "0")
    assert await results.step() == 1
    assert await results.put([completed(new_task_id(), b"1")])


async def test_systems_with_namespaces_of_their_own_share_a_redis(redis_url: str, namespace: str) -> None:
    task_id = new_task_id()
    async with results_in(redis_url, namespace) as ours, results_in(redis_url, f"{namespace}-b") as theirs:
        await ours.put([completed(task_id, b"1")])
        lookups = [view(task_id), view(task_id)]
        await ours.fill(lookups[:1])
        await theirs.fill(lookups[1:])
    assert [v.result_expired for v in lookups] == [False, True]


async def test_one_that_cannot_be_reached_or_takes_nothing_is_refused_at_the_start_without_its_password(
    redis: Redis, private_redis: PrivateRedis
) -> None:
    away = RedisResults("redis://u:geheim@127.0.0.1:1/3", ttl=DAY, namespace="t")
    with pytest.raises(ConfigurationError, match=r"TACOQ_RESULTS_URL \(redis://127.0.0.1:1/3\) cannot keep") as told:
        await away.open()
    assert "geheim" not in str(told.value)
    await away.close()
    await redis.replicaof("127.0.0.1", 1)
    replica = RedisResults(private_redis.redis_url, ttl=DAY, namespace="t")
    try:
        with pytest.raises(ConfigurationError, match="read only replica"):
            await replica.open()
    finally:
        await redis.replicaof("NO", "ONE")
        await replica.close()


def test_a_url_with_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"TACOQ_RESULTS_URL: redis://h:abc/0: "):
        results_of("redis://h:abc/0", ttl=DAY, namespace="t")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "tacoq_manager.store.redis_results")
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tacoq-manager\[redis\]'"):
        results_of("redis://127.0.0.1", ttl=DAY, namespace="t")
    assert type(results_of(None, ttl=DAY, namespace="t")) is Results
