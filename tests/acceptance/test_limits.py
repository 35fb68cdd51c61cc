"""Limits, weights and pauses over two workers, as applications see them: on RabbitMQ in processes, and embedded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from scripts.cleanup import delete_topology
from tacoq_embedded.stack import Stack
from tacoq_manager.settings import Settings
from tacoq_publisher import Publisher, TaskHandle, TaskState
from tests.acceptance import limited as h
from tests.acceptance.test_workers import prints
from tests.support.cluster import Cluster
from tests.support.databases import Databases
from tests.support.eventually import eventually


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def two_workers(databases: Databases, broker_url: str, namespace_prefix: str) -> AsyncIterator[str]:
    """The URL of a manager with two workers of the queue, as processes."""
    namespace = f"{namespace_prefix}limited"
    database = databases.url_of(await databases.create())
    with Cluster(database, broker_url, namespace, handlers=h.__name__) as running:
        await running.start_manager()
        running.worker()
        running.worker()
        await running.joined(2, h.QUEUE)
        yield running.url
    await delete_topology(broker_url, namespace, queues=[h.QUEUE])


@pytest.fixture
def _fleet(where: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    return where, request.getfixturevalue("two_workers" if where == "rabbitmq" else "embedded_database")


@pytest_asyncio.fixture
async def fleet(_fleet: tuple[str, str]) -> AsyncIterator[str]:
    """The URL of a manager with two workers; when the test ends nothing that it set is left."""
    where, given = _fleet
    if where == "rabbitmq":
        await eventually(lambda: knows_kinds(given))
        yield given
    else:
        async with Stack([h.worker, h.worker], Settings(database_url=given, port=0), grace=1.0) as stack:
            await eventually(lambda: knows_kinds(stack.url))
            yield stack.url
    if where == "rabbitmq":
        await ask(given, "PUT", f"/v1/queues/{h.QUEUE}/limits", {})
        await ask(given, "POST", f"/v1/queues/{h.QUEUE}/resume")
        for kind in (await ask(given, "GET", "/v1/kinds"))["kinds"]:
            await ask(given, "PUT", f"/v1/kinds/{kind['name']}/limits", {})


async def knows_kinds(url: str) -> bool:
    """They are written behind the registration of the workers."""
    return len((await ask(url, "GET", "/v1/kinds"))["kinds"]) == len(h.worker.registry)


@pytest.fixture
def marks(tmp_path: Path) -> str:
    return str(tmp_path / "marks")


async def ask(url: str, method: str, path: str, body: object = None) -> Any:
    async with aiohttp.ClientSession() as http, http.request(method, f"{url}{path}", json=body) as answer:
        assert answer.status < 300, await answer.text()
        return await answer.json()


def ran(marks: str) -> list[h.Ran]:
    path = Path(marks)
    return [h.Ran.model_validate_json(line) for line in path.read_text().splitlines()] if path.exists() else []


def at_once(runs: Iterable[h.Ran]) -> int:
    """The most of them that ran at the same time."""
    runs = list(runs)
    moments = sorted([(run.began, 1) for run in runs] + [(run.ended, -1) for run in runs])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


async def all_end(handles: Iterable[TaskHandle[None]]) -> None:
    await asyncio.gather(*(handle.result(50) for handle in handles))


async def released_at(handles: Iterable[TaskHandle[None]]) -> list[float]:
    """When they were released, by the database's clock."""
    views = await asyncio.gather(*(handle.view() for handle in handles))
    return sorted(view.queued_at.timestamp() for view in views if view.queued_at is not None)


async def test_no_more_run_at_once_than_queue_kind_and_key_allow(fleet: str, marks: str) -> None:
    await ask(fleet, "PUT", f"/v1/queues/{h.QUEUE}/limits", {"concurrency": 9})
    async with Publisher(fleet) as tacoq:
        handles = await tacoq.publish_many(h.few.task(marks) for _ in range(30))
        for key in "abcd":
            tasks = [h.few_of_each.task(marks, key) for _ in range(8)]
            handles += await tacoq.publish_many(tasks, fairness_key=key)
        handles += await tacoq.publish_many(h.free.task(marks) for _ in range(30))
        await all_end(handles)
    runs = ran(marks)
    assert len(runs) == 92
    assert 1 < at_once(run for run in runs if run.kind == "few") <= 3
    for key in "abcd":
        assert at_once(run for run in runs if run.key == key) <= 2
    assert 3 < at_once(runs) <= 9


async def test_no_more_are_released_in_a_time_than_the_rate_allows(fleet: str, marks: str) -> None:
    async with Publisher(fleet) as tacoq:
        one = await tacoq.publish_many((h.slowly.task(marks, "one") for _ in range(30)), fairness_key="one")
        two = await tacoq.publish_many((h.slowly.task(marks, "two") for _ in range(30)), fairness_key="two")
        await all_end([*one, *two])
        for handles, per_second in ((one, 15), (two, 15), ([*one, *two], 20)):
            moments = await released_at(handles)
            for first, last in combinations(range(len(moments)), 2):
                seconds = moments[last] - moments[first]
                assert last - first + 1 <= per_second * (1 + seconds) + 0.01


async def test_limit_that_is_set_at_run_time_holds_when_it_is_answered(fleet: str, marks: str) -> None:
    async with Publisher(fleet) as tacoq:
        (kind,) = (await prints("kinds", "limit", "few", "--concurrency", "1", url=fleet))["kinds"]
        assert (kind["limits"]["concurrency"], kind["override"]["concurrency"]) == (1, 1)
        await all_end(await tacoq.publish_many(h.few.task(marks) for _ in range(6)))
        assert at_once(ran(marks)) == 1
        (kind,) = (await prints("kinds", "limit", "few", "--concurrency", "none", url=fleet))["kinds"]
        assert (kind["limits"]["concurrency"], kind["override"]["concurrency"]) == (3, None)
        Path(marks).unlink()
        await all_end(await tacoq.publish_many(h.few.task(marks, seconds=0.5) for _ in range(9)))
        assert 1 < at_once(ran(marks)) <= 3


async def test_paused_queue_keeps_its_tasks_and_releases_them_when_it_is_resumed(fleet: str, marks: str) -> None:
    async with Publisher(fleet) as tacoq:
        (queue,) = (await prints("queues", "pause", h.QUEUE, url=fleet))["queues"]
        assert queue["paused"]
        handle = await tacoq.publish(h.free.task(marks))
        assert (await handle.why()).reason == "paused"
        assert await handle.state() is TaskState.PENDING
        (queue,) = (await prints("queues", "resume", h.QUEUE, url=fleet))["queues"]
        assert not queue["paused"]
        await handle.result(20)


async def test_keys_are_served_by_their_weights(fleet: str, marks: str) -> None:
    await prints("queues", "limit", h.QUEUE, "--concurrency", "4", "--weight", "heavy=3", url=fleet)
    await ask(fleet, "POST", f"/v1/queues/{h.QUEUE}/pause")
    async with Publisher(fleet) as tacoq:
        handles = []
        for key in ("heavy", "light"):
            tasks = [h.free.task(marks, key, 0.02) for _ in range(60)]
            handles += await tacoq.publish_many(tasks, fairness_key=key)
        await ask(fleet, "POST", f"/v1/queues/{h.QUEUE}/resume")
        await all_end(handles)
        views = await asyncio.gather(*(handle.view() for handle in handles))
    order = sorted(views, key=lambda view: view.queued_at or view.created_at)
    first = Counter(view.fairness_key for view in order[:40])
    assert first["heavy"] == pytest.approx(30, abs=3)


@pytest.mark.parametrize("alone", [False, True])
async def test_one_that_is_rate_limited_holds_back_all(fleet: str, marks: str, tmp_path: Path, alone: bool) -> None:
    busy = tmp_path / "busy"
    busy.touch()
    task = h.asks_a_busy_service.task
    async with Publisher(fleet) as tacoq:
        first = await tacoq.publish(task(marks, str(busy), "a", alone=alone), fairness_key="a")

        async def it_is_held_back() -> Any:
            kinds = (await ask(fleet, "GET", "/v1/kinds"))["kinds"]
            (kind,) = [kind for kind in kinds if kind["name"] == "asks_a_busy_service"]
            return kind["held_keys"] if alone else kind["held_until"]

        await eventually(it_is_held_back)
        busy.unlink()
        more = await tacoq.publish_many((task(marks, str(busy), "a") for _ in range(5)), fairness_key="a")
        other = await tacoq.publish(task(marks, str(busy), "b"), fairness_key="b")
        await all_end([first, *more, other])
        views = await asyncio.gather(*(handle.view() for handle in [first, *more]))
    assert {view.attempt for view in views} == {0}
    runs = ran(marks)
    refused = [run.began for run in runs if run.kind == "refused"]
    served = [run for run in runs if run.kind == "served"]
    assert (len(served), bool(refused)) == (7, True)
    for run in served:
        if run.key == "a" or not alone:
            assert run.began >= max(refused) + 2.0


async def test_hold_that_somebody_ends_is_over(fleet: str, marks: str, tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    busy.touch()
    task = h.asks_a_busy_service.task
    async with Publisher(fleet) as tacoq:
        first = await tacoq.publish(task(marks, str(busy)))
        await eventually(lambda: bool(ran(marks)))
        await eventually(lambda: first_is_scheduled(first))
        busy.unlink()
        (kind,) = (await prints("kinds", "resume", "asks_a_busy_service", url=fleet))["kinds"]
        assert kind["held_until"] is None
        await all_end([await tacoq.publish(task(marks, str(busy))), first])


async def first_is_scheduled(handle: TaskHandle[None]) -> bool:
    return await handle.state() is TaskState.SCHEDULED


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/queues/limited/limits", {"concurrency": 0}, "concurrency"),
        ("/v1/queues/limited/limits", {"concurrency": "5"}, "concurrency"),
        ("/v1/queues/limited/limits", {"rate": "often"}, "'often' is not a rate: give one like"),
        ("/v1/queues/limited/limits", {"weights": {"a": 0}}, "weights"),
        ("/v1/queues/limited/limits", {"weights": {"a\u0000": 2}}, "weights"),
        ("/v1/queues/limited/limits", {"speed": 1}, "speed"),
        ("/v1/queues/a%20b/limits", {}, "'a b' is not a queue's name"),
        ("/v1/kinds/few/limits", {"rate_per_key": "5"}, "'5' is not a rate"),
        ("/v1/kinds/few/limits", {"max_per_key": -1}, "max_per_key"),
    ],
)
async def test_limit_that_is_none_is_refused_whole(fleet: str, path: str, body: object, words: str) -> None:
    before = (await ask(fleet, "GET", "/v1/queues"), (await ask(fleet, "GET", "/v1/kinds"))["kinds"])
    async with aiohttp.ClientSession() as http, http.put(f"{fleet}{path}", json=body) as answer:
        assert answer.status == 422
        assert words in (await answer.json())["detail"]
    assert (await ask(fleet, "GET", "/v1/queues"), (await ask(fleet, "GET", "/v1/kinds"))["kinds"]) == before


async def test_kind_that_nobody_registered_cannot_be_limited(fleet: str) -> None:
    for path, method in (("limits", "PUT"), ("resume", "POST")):
        url = f"{fleet}/v1/kinds/unheard/{path}"
        async with aiohttp.ClientSession() as http, http.request(method, url, json={}) as answer:
            assert answer.status == 404
            assert "no worker has registered kind 'unheard'" in (await answer.json())["detail"]
