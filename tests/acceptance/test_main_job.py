"""The main job through the public SDKs, on RabbitMQ with separate processes and embedded: the same on both."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tacoq_publisher import Publisher, SyncPublisher, TaskCancelled, TaskExpired, TaskFailed, TaskState
from tests.acceptance import handlers as h
from tests.support.eventually import eventually


async def get(url: str, path: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"{url}{path}") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_result_of_a_typed_call(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish(h.add.task(2, 3))
        assert await handle.result(20) == 5
        assert await handle.state() is TaskState.COMPLETED


async def test_publish_by_name_finds_the_queue_whose_workers_know_the_kind(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish("add_in_process", {"x": 2, "y": 3})
        total, pid = await handle.result(20)
        assert (total, (await handle.view()).queue) == (5, "processes")
        assert pid != os.getpid()


async def test_sync_handler_runs_in_a_thread(url: str) -> None:
    async with Publisher(url) as tacoq:
        assert await (await tacoq.publish(h.add_in_thread.task(2, 3))).result(20) == 5


async def test_model_in_model_out(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish(h.bill.task(h.Order(item="taco", count=4)))
        assert await handle.result(20) == h.Bill(text="4 × taco", total=12)


async def test_many_tasks_each_completed_once_with_its_own_result(url: str) -> None:
    async with Publisher(url) as tacoq:
        handles = await tacoq.publish_many(h.add.task(i, i) for i in range(2_000))
        assert len({handle.id for handle in handles}) == 2_000
        results = {handle.id: await handle.result() async for handle in tacoq.as_completed(handles)}
        assert [results[handle.id] for handle in handles] == [2 * i for i in range(2_000)]


async def test_gathered_publishes(url: str) -> None:
    async with Publisher(url) as tacoq:
        handles = await asyncio.gather(*(tacoq.publish(h.add.task(i, 1)) for i in range(300)))
        assert await asyncio.gather(*(handle.result(20) for handle in handles)) == [i + 1 for i in range(300)]


async def test_blocking_publisher(url: str) -> None:
    def use() -> list[int]:
        with SyncPublisher(url) as tacoq:
            return [handle.result(20) for handle in tacoq.publish_many(h.add.task(i, 1) for i in range(10))]

    assert await asyncio.to_thread(use) == list(range(1, 11))


async def test_delayed_task_waits_until_it_is_due(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish(h.add.task(1, 1), delay="500ms")
        assert await handle.state() is TaskState.SCHEDULED
        view = await handle.wait(20)
        assert view.started_at is not None
        assert view.started_at - view.created_at >= timedelta(milliseconds=500)


async def test_run_at_takes_a_moment(url: str) -> None:
    async with Publisher(url) as tacoq:
        moment = datetime.now(UTC) + timedelta(milliseconds=300)
        view = await (await tacoq.publish(h.add.task(1, 1), run_at=moment)).wait(20)
        assert view.started_at is not None
        assert view.started_at >= moment


async def test_failed_attempts_are_retried_to_success_and_stand_in_the_timeline(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish(h.fails_until.task(2))
        assert await handle.result(20) == 2
        timeline = await get(url, f"/v1/tasks/{handle.id}/timeline")
        events = [event["event"] for event in timeline["events"]]
        assert events[0] == "accepted"
        assert events[-1] == "completed"
        assert sum("failed" in event for event in events) == 2


async def test_last_attempt_that_fails_makes_the_task_fail(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish(h.fails_until.task(9), max_attempts=2)
        with pytest.raises(TaskFailed, match="ValueError: not yet, attempt 1") as caught:
            await handle.result(20)
        assert "fails_until" in (caught.value.traceback or "")


@pytest.mark.parametrize(("outcome", "answer"), [("retry", "release 3, attempt 1"), ("snooze", "release 3, attempt 0")])
async def test_handler_asks_to_run_again(url: str, outcome: str, answer: str) -> None:
    """A snooze costs no attempt. The number of the release grows: by the report that closed one, and by the claim."""
    async with Publisher(url) as tacoq:
        assert await (await tacoq.publish(h.asks.task(outcome))).result(20) == answer


async def test_handler_ends_its_task(url: str) -> None:
    async with Publisher(url) as tacoq:
        with pytest.raises(TaskCancelled, match="not needed"):
            await (await tacoq.publish(h.asks.task("cancel"))).result(20)
        with pytest.raises(TaskFailed, match="cannot be done"):
            await (await tacoq.publish(h.asks.task("fail"))).result(20)


async def test_run_over_its_timeout_fails(url: str) -> None:
    async with Publisher(url) as tacoq:
        with pytest.raises(TaskFailed, match="Timeout"):
            await (await tacoq.publish(h.too_slow.task())).result(20)


async def test_task_that_expires_while_it_waits_is_not_run(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish("nobody.knows.this", {}, expires="200ms")
        with pytest.raises(TaskExpired):
            await handle.result(20)


async def test_cancel_of_a_waiting_task_is_final_at_once(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish(h.add.task(1, 1), delay="1h")
        assert await handle.cancel() is TaskState.CANCELLED
        with pytest.raises(TaskCancelled):
            await handle.result(20)


async def test_cancel_of_a_running_task_stops_it(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish(h.nap.task(60.0))

        async def runs() -> bool:
            return await handle.state() is TaskState.RUNNING

        await eventually(runs)
        assert await handle.cancel() is TaskState.RUNNING
        with pytest.raises(TaskCancelled):
            await handle.result(20)


async def test_unknown_kind_waits_and_is_seen(url: str) -> None:
    async with Publisher(url) as tacoq:
        handle = await tacoq.publish("not.there.yet", {})
        page = await get(url, "/v1/tasks?kind=not.there.yet&state=pending")
        assert str(handle.id) in {task["id"] for task in page["tasks"]}
        assert await handle.cancel() is TaskState.CANCELLED


async def test_retry_of_a_failed_task_is_a_new_one(url: str) -> None:
    async with Publisher(url) as tacoq:
        failed = await tacoq.publish(h.asks.task("fail"))
        await failed.wait(20)
        async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/tasks/{failed.id}/retry") as answer:
            assert answer.status == 201
            again = tacoq.handle((await answer.json())["id"])
        view = await again.wait(20)
        assert view.retry_of == failed.id
        assert await failed.state() is TaskState.FAILED


async def test_higher_priority_is_released_first(url: str) -> None:
    """All slots are taken while both wait: the one published last, with more priority, starts first."""
    async with Publisher(url) as tacoq:
        await tacoq.publish_many((h.nap.task(2.0) for _ in range(h.worker.concurrency)), priority=9)

        async def all_run() -> bool:
            queues = {queue["name"]: queue for queue in (await get(url, "/v1/queues"))["queues"]}
            return bool(queues["default"]["running"] == h.worker.concurrency)

        await eventually(all_run)
        low = await tacoq.publish_many((h.nap.task(0.3) for _ in range(h.worker.concurrency)), priority=0)
        high = await tacoq.publish(h.add.task(1, 1), priority=5)
        started = (await high.wait(20)).started_at
        assert started is not None
        for handle in low:
            assert ((await handle.wait(20)).started_at or started) >= started


async def test_trace_context_reaches_the_handler(url: str) -> None:
    span = NonRecordingSpan(SpanContext(0x1234, 0x5678, is_remote=False, trace_flags=TraceFlags(1)))
    async with Publisher(url) as tacoq:
        with trace.use_span(span):
            handle = await tacoq.publish(h.traced.task())
        assert await handle.result(20) == f"00-{0x1234:032x}-{0x5678:016x}-01"


async def test_list_pages_through_all_tasks_newest_first(url: str) -> None:
    async with Publisher(url) as tacoq:
        handles = await tacoq.publish_many([("listed.kind", {"i": i}) for i in range(25)])
        found: list[str] = []
        path = "/v1/tasks?kind=listed.kind&limit=10"
        cursor = None
        while True:
            page = await get(url, path + (f"&cursor={cursor}" if cursor else ""))
            found += [task["id"] for task in page["tasks"]]
            if (cursor := page.get("next")) is None:
                break
        assert found == [str(handle.id) for handle in reversed(handles)]
        await asyncio.gather(*(handle.cancel() for handle in handles))


async def test_workers_queues_kinds_health_and_metrics_are_shown(url: str) -> None:
    async with Publisher(url) as tacoq:
        await (await tacoq.publish(h.add.task(1, 1))).result(20)
    assert {worker["queue"] for worker in (await get(url, "/v1/workers"))["workers"]} == {"default", "processes"}
    (queue,) = [queue for queue in (await get(url, "/v1/queues"))["queues"] if queue["name"] == "default"]
    assert (queue["workers"], queue["slots"]) == (1, h.worker.concurrency)

    async def registered() -> bool:
        kinds = {kind["name"]: kind for kind in (await get(url, "/v1/kinds"))["kinds"]}
        return kinds["add"]["payload_schema"]["properties"].keys() == {"x", "y"} if "add" in kinds else False

    await eventually(registered)
    await get(url, "/livez")
    await get(url, "/readyz")
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        assert 'tacoq_tasks_final_total{kind="add",queue="default",state="completed"}' in await answer.text()
