"""Results on Redis through every door: kept, expired, and while Redis is away; with separate processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import aiohttp
import pytest
from redis.asyncio import Redis

from scripts.services import PrivateRedis
from tacoq_protocol.errors import TacoqError
from tacoq_publisher import Publisher, ResultExpired, SyncPublisher, TaskFailed, TaskState
from tests.acceptance import handlers as h
from tests.support.cluster import Cluster
from tests.support.eventually import eventually


async def start(cluster: Cluster, redis_url: str, **more: str) -> None:
    await cluster.start_manager(env={"TACOQ_RESULTS_URL": redis_url, **more})
    cluster.worker()
    await cluster.joined()


async def results_in_postgres(cluster: Cluster) -> int:
    (row,) = await cluster.rows("SELECT count(*) FROM task_history WHERE result IS NOT NULL")
    found: int = row["count"]
    return found


def tacoq(cluster: Cluster, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end; return its exit code and what it said."""
    process = cluster.spawn(*arguments, env=env)
    return process.wait(20), process.log()


async def test_many_results_come_back_and_none_is_in_postgres(cluster: Cluster, redis_url: str, namespace: str) -> None:
    await start(cluster, redis_url, TACOQ_RESULTS_TTL="10m")
    async with Publisher(cluster.url) as publisher, Redis.from_url(redis_url) as redis:
        handles = await publisher.publish_many(h.add.task(i, i) for i in range(1_000))
        results = {handle.id: await handle.result() async for handle in publisher.as_completed(handles, timeout=40)}
        assert [results[handle.id] for handle in handles] == [2 * i for i in range(1_000)]
        assert await results_in_postgres(cluster) == 0
        for handle in handles[::100]:  # looked up, not waited for
            assert bytes((await handle.view()).result or b"") == b"%d" % results[handle.id]
            (key,) = [key async for key in redis.scan_iter(f"{namespace}:result:{handle.id}:*", count=1_000)]
            assert 0 < await redis.ttl(key) <= 600
        keys = [key async for key in redis.scan_iter(f"{namespace}:result:*", count=1_000)]
        await redis.unlink(*keys)
    assert (await cluster.get("/readyz"))["results"] == "open"


async def test_an_expired_result_is_told_as_such_by_every_door(cluster: Cluster, private_redis: PrivateRedis) -> None:
    await start(cluster, private_redis.redis_url)
    async with Publisher(cluster.url) as publisher:
        done, failed = (
            await publisher.publish(h.add.task(2, 3)),
            await publisher.publish(h.fails.task("no"), max_attempts=1),
        )
        assert await done.result(20) == 5
        with pytest.raises(TaskFailed):
            await failed.result(20)
        async with Redis.from_url(private_redis.redis_url) as redis:
            await redis.flushall()
        assert await done.result() == 5, "what was read is kept by the handle"

        again = publisher.handle(done.id)
        with pytest.raises(ResultExpired, match="result expired") as caught:
            await again.result(20)
        assert isinstance(caught.value, TacoqError)
        assert (caught.value.task_id, caught.value.kind) == (done.id, "add")
        assert caught.value.finished_at is not None
        assert await again.state() is TaskState.COMPLETED
        with pytest.raises(TaskFailed, match="ValueError: no"):  # errors are in Postgres
            await publisher.handle(failed.id).result(20)

    def blocking() -> None:
        with SyncPublisher(cluster.url) as publisher, pytest.raises(ResultExpired):
            publisher.handle(done.id).result(20)

    await asyncio.to_thread(blocking)
    for path in (f"/v1/tasks/{done.id}", f"/v1/tasks/{done.id}?wait=10", f"/v1/tasks/{done.id}?payload=true"):
        view = await cluster.get(path)
        assert (view["state"], view["result_expired"], "result" in view) == ("completed", True, False)
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{cluster.url}/v1/tasks/wait", json={"ids": [str(done.id)], "timeout": 10}) as answer,
    ):
        (line,) = (await answer.text()).splitlines()
        assert json.loads(line)["result_expired"] is True
    code, said = await asyncio.to_thread(tacoq, cluster, "show", str(done.id))
    assert code == 0
    assert "expired: it was kept for a time, and is gone" in said


async def test_tasks_go_on_while_redis_is_away_and_no_result_of_then_is_lost(
    cluster: Cluster, private_redis: PrivateRedis
) -> None:
    await start(cluster, private_redis.redis_url)
    async with Publisher(cluster.url, retry_for=1.0) as publisher:
        before = await publisher.publish(h.add.task(1, 1))
        await before.wait(20)
        private_redis.kill()
        during = await publisher.publish_many(h.add.task(i, 1) for i in range(300))
        assert await asyncio.gather(*(handle.result(40) for handle in during)) == [i + 1 for i in range(300)]
        assert await results_in_postgres(cluster) == 300
        readyz = await cluster.get("/readyz")
        assert (readyz["status"], readyz["results"]) == ("ready", "away")

        # What is in Redis cannot be told of now: not that it is there, and not that it has expired.
        async with aiohttp.ClientSession() as http, http.get(f"{cluster.url}/v1/tasks/{before.id}") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert "the result is in Redis, which cannot be asked now" in (await answer.json())["detail"]
        waiting = asyncio.create_task(publisher.handle(before.id).result(40))
        private_redis.start()

        async def back() -> bool:
            return bool((await cluster.get("/readyz"))["results"] == "open")

        await eventually(back)
        with pytest.raises(ResultExpired):  # its data went with it
            await waiting
        after = await publisher.publish(h.add.task(4, 4))
        assert await after.result(20) == 8
        assert await publisher.handle(during[7].id).result(20) == 8
    assert await results_in_postgres(cluster) == 300


@pytest.mark.timeout(90)
async def test_redis_killed_and_started_under_load_costs_results_that_it_had_and_nothing_else(
    cluster: Cluster, private_redis: PrivateRedis
) -> None:
    await start(cluster, private_redis.redis_url)
    async with Publisher(cluster.url) as publisher:
        handles = await publisher.publish_many(h.add.task(i, i) for i in range(3_000))

        async def some(count: int) -> bool:
            (row,) = await cluster.rows("SELECT count(*) FROM task_history")
            return bool(row["count"] >= count)

        for count in (200, 1_000):
            await eventually(lambda count=count: some(count), 30)  # type: ignore[misc]
            private_redis.kill()
            private_redis.start()
        handles += await publisher.publish_many(h.add.task(i, i) for i in range(3_000, 3_100))
        states = await cluster.all_final(3_100)
        assert states == {"completed": 3_100}
        expired = 0
        for number, handle in enumerate(handles):
            try:
                assert await handle.result(20) == 2 * number
            except ResultExpired:
                expired += 1
        assert expired <= 3_000


async def test_results_of_an_earlier_setting(cluster: Cluster, private_redis: PrivateRedis) -> None:
    await start(cluster, private_redis.redis_url)
    async with Publisher(cluster.url) as publisher:
        on_redis = await publisher.publish(h.add.task(1, 1))
        await on_redis.wait(20)
        assert cluster.manager is not None
        cluster.manager.terminate()
        assert await asyncio.to_thread(cluster.manager.wait, 20) == 0

        await cluster.start_manager()  # without
        await cluster.joined()
        in_postgres = await publisher.publish(h.add.task(2, 2))
        assert await in_postgres.result(20) == 4
        with pytest.raises(ResultExpired):
            await publisher.handle(on_redis.id).result(20)
        assert "results" not in await cluster.get("/readyz")
        cluster.manager.terminate()
        assert await asyncio.to_thread(cluster.manager.wait, 20) == 0

        await cluster.start_manager(env={"TACOQ_RESULTS_URL": private_redis.redis_url})  # again: nothing was lost
        assert await publisher.handle(on_redis.id).result(20) == 2
        assert await publisher.handle(in_postgres.id).result(20) == 4
