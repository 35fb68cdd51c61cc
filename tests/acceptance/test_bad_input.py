"""Bad input and missing parts: a clear error or a defined wait, nothing half done, nothing lost."""

from __future__ import annotations

import asyncio
from io import BytesIO
from uuid import uuid4

import aiohttp
import msgspec
import pytest

from scripts.probes import free_port
from scripts.services import PrivatePostgres, PrivateRabbit
from tacoq_protocol.http import MAX_BATCH_TASKS, MAX_PAYLOAD_BYTES, NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_publisher import (
    ConfigurationError,
    InvalidTask,
    ManagerUnavailable,
    Publisher,
    TaskFailed,
    TaskNotFound,
    TaskState,
)
from tests.acceptance import handlers as h
from tests.support.cluster import Cluster
from tests.support.eventually import eventually


async def post(url: str, path: str, body: bytes) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as http, http.post(f"{url}{path}", data=BytesIO(body)) as answer:
        assert answer.status == 201 or answer.content_type == "application/problem+json"
        return answer.status, await answer.json(content_type=None)


def task(**fields: object) -> bytes:
    return msgspec.json.encode({"id": str(new_task_id()), "kind": "add", "payload": {"x": 1, "y": 1}, **fields})


async def test_unknown_option_is_named(url: str) -> None:
    status, problem = await post(url, "/v1/tasks", task(prioritty=3))
    assert status == 422
    assert "prioritty" in str(problem["detail"])
    async with Publisher(url) as tacoq:
        with pytest.raises(ConfigurationError, match="prioritty"):
            await tacoq.publish(h.add.task(1, 1), prioritty=3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"priority": 10}, "priority"),
        ({"kind": ""}, "kind"),
        ({"kind": "a\nb"}, "kind"),
        ({"queue": "no spaces"}, "queue"),
        ({"delay": -1}, "delay"),
        ({"run_at": "2026-01-01T00:00:00"}, "run_at"),
        ({"id": str(uuid4())}, "UUIDv7"),
        ({"id": "17"}, "id"),
        ({"max_attempts": 0}, "max_attempts"),
    ],
)
async def test_wrong_value_names_its_field(url: str, fields: dict[str, object], says: str) -> None:
    status, problem = await post(url, "/v1/tasks", task(**fields))
    assert status == 422
    assert says in f"{problem['detail']} {problem.get('pointer')}"


async def test_payload_over_the_limit(url: str) -> None:
    status, problem = await post(url, "/v1/tasks", task(payload="x" * MAX_PAYLOAD_BYTES))
    assert status in {413, 422}
    assert "1,048,576" in str(problem["detail"])
    async with Publisher(url) as tacoq:
        with pytest.raises(InvalidTask, match="1,048,576"):
            await tacoq.publish("add", "x" * MAX_PAYLOAD_BYTES)


async def test_malformed_json_says_where(url: str) -> None:
    status, problem = await post(url, "/v1/tasks", b'{"kind": "add",,}')
    assert status in {400, 422}
    assert "byte" in str(problem["detail"])


async def test_full_batch_with_one_bad_task_is_refused_whole_and_names_it(url: str) -> None:
    ids = [new_task_id() for _ in range(MAX_BATCH_TASKS)]
    tasks: list[dict[str, object]] = [{"id": str(id), "kind": "add", "payload": {"x": 1, "y": 1}} for id in ids]
    tasks[617]["priority"] = 11
    status, problem = await post(url, "/v1/tasks/batch", msgspec.json.encode({"tasks": tasks}))
    assert (status, problem["index"]) == (422, 617)
    assert "617" in str(problem["detail"])
    async with Publisher(url) as tacoq:
        for id in (ids[0], ids[616], ids[-1]):
            with pytest.raises(TaskNotFound):
                await tacoq.handle(id).state()


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"x": 1, "y": "many"}, r'\$\.y: value is not of type "integer"'),
        ({"x": 1}, '"y" is a required property'),
        ({"x": 1, "y": 2, "z": 3}, "'z' was unexpected"),
    ],
)
async def test_payload_that_the_handler_does_not_take_is_refused_at_the_door(
    url: str, payload: dict[str, object], says: str
) -> None:
    async with Publisher(url) as tacoq:
        with pytest.raises(InvalidTask, match=says):
            await tacoq.publish("add", payload)


async def test_payload_that_was_there_before_the_handler_fails_its_task_with_the_path(cluster: Cluster) -> None:
    """Nobody knew the kind when it was published."""
    await cluster.start_manager()
    async with Publisher(cluster.url) as tacoq:
        handle = await tacoq.publish("add", {"x": 1, "y": "many"})
        cluster.worker()
        with pytest.raises(TaskFailed, match=r"\$\.y") as caught:
            await handle.result(30)
        assert caught.value.error_type == "InvalidPayload"


async def test_result_that_cannot_be_sent_fails_the_task_and_no_other(url: str) -> None:
    async with Publisher(url) as tacoq:
        bad = [await tacoq.publish(kind) for kind in (h.unserialisable.task(), h.huge.task())]
        good = await tacoq.publish_many(h.add.task(i, 1) for i in range(20))
        assert [await handle.result(20) for handle in good] == list(range(1, 21))
        for handle in bad:
            with pytest.raises(TaskFailed):
                await handle.result(20)


async def test_unknown_task_id(url: str) -> None:
    async with Publisher(url) as tacoq:
        with pytest.raises(TaskNotFound, match="no task has the id"):
            await tacoq.handle(new_task_id()).result(5)


async def test_unknown_kind_waits_for_a_worker_that_knows_it(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish("no.such.kind", {})
        view = await handle.view()
        assert (view.state, view.release) == (TaskState.PENDING, 0)
        await handle.cancel()


async def test_kind_published_before_any_worker_knew_it_finds_their_queue(cluster: Cluster) -> None:
    """Its publisher named no queue; one that did is left where it was sent."""
    await cluster.start_manager()
    async with Publisher(cluster.url) as tacoq:
        first = await tacoq.publish("add_in_process", {"x": 1, "y": 1})
        later = await tacoq.publish("add_in_process", {"x": 2, "y": 2}, delay="1s")
        elsewhere = await tacoq.publish("add_in_process", {"x": 3, "y": 3}, queue="default")
        cluster.worker("processes")
        assert (await first.result(30))[0] == 2
        assert (await later.result(30))[0] == 4
        assert await elsewhere.state() is TaskState.PENDING


async def test_manager_away() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with Publisher(url, retry_for="300ms") as tacoq:
        with pytest.raises(ManagerUnavailable, match=url):
            await tacoq.publish("add", {"x": 1, "y": 1})


async def test_manager_that_comes_in_time_gets_each_task_once(cluster: Cluster) -> None:
    async with Publisher(cluster.url) as tacoq:
        publishing = asyncio.gather(*(tacoq.publish(h.add.task(i, 1)) for i in range(50)))
        await asyncio.sleep(0)
        await cluster.start_manager()
        handles = await publishing
        cluster.worker()
        assert [await handle.result(30) for handle in handles] == [i + 1 for i in range(50)]
        assert await cluster.all_final(50) == {"completed": 50}


@pytest.mark.timeout(120)
async def test_broker_away_tasks_are_accepted_and_run_when_it_is_back(
    database: str, private_rabbit: PrivateRabbit, namespace: str
) -> None:
    private_rabbit.stop()
    with Cluster(database, private_rabbit.broker_url, namespace) as cluster:
        await cluster.start_manager()
        cluster.worker()
        async with Publisher(cluster.url) as tacoq:
            handles = await tacoq.publish_many(h.add.task(i, 1) for i in range(20))
            assert await cluster.states() == {"pending": 20}
            private_rabbit.start()
            assert [await handle.result(60) for handle in handles] == [i + 1 for i in range(20)]


@pytest.mark.timeout(120)
async def test_database_away_is_said_with_retry_after_and_reports_wait(
    private_database: str, private_postgres: PrivatePostgres, broker_url: str, namespace: str
) -> None:
    with Cluster(private_database, broker_url, namespace) as cluster:
        manager = await cluster.start_manager()
        cluster.worker()
        await cluster.joined()
        async with Publisher(cluster.url, retry_for="60s") as tacoq:
            running = await tacoq.publish(h.nap.task(1.0))

            async def runs() -> bool:
                return await running.state() is TaskState.RUNNING

            await eventually(runs)
            private_postgres.kill()
            body = msgspec.json.encode(NewTask(id=new_task_id(), kind="add"))
            async with aiohttp.ClientSession() as http, http.post(f"{cluster.url}/v1/tasks", data=body) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) >= 1
            publishing = asyncio.create_task(tacoq.publish(h.add.task(2, 3)))
            await asyncio.to_thread(manager.wait_for_log, "reports wait for Postgres")
            private_postgres.start()
            assert await (await publishing).result(30) == 5
            assert await running.result(30) == 1.0


async def test_manager_refuses_a_database_without_tables(cluster: Cluster, database_url: str) -> None:
    manager = Cluster(database_url, "amqp://guest:guest@127.0.0.1:1/", "unused")
    with manager:
        process = manager.spawn("manager", "--port", "0")
        assert process.wait(30) == 1
        assert "run: tacoq migrate" in process.log()
