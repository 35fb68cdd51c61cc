"""/v1/tasks: look up, wait, list, cancel, timeline; over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from tacoq_manager.api import stream
from tacoq_protocol.http import MAX_WAIT_TASKS
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.states import TaskState
from tests.manager.rows import finish, insert_final, insert_live, new_ids
from tests.manager.serving import Served
from tests.support import eventually

LINES_SECONDS = 20.0


def now() -> datetime:
    return datetime.now(UTC)


async def lines(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if line.strip():
            yield json.loads(line)


async def end(served: Served, ids: list[UUID]) -> None:
    """What settle does: the rows first, then the news."""
    await finish(served.manager.database, ids)
    served.manager.waiters.settled(ids)


# Looking up.


async def test_a_task_is_looked_up_with_its_result(served: Served) -> None:
    done = new_task_id()
    await insert_final(served.manager.database, [done], finished_at=now(), result=b'{"sum":3}')
    status, view = await served.ask("GET", f"/v1/tasks/{done}")
    assert (status, view["state"], view["result"]) == (200, "completed", {"sum": 3})
    assert "payload" not in view
    _, view = await served.ask("GET", f"/v1/tasks/{done}", params={"payload": "true"})
    assert view["payload"] == {"x": 1}


async def test_no_task_is_404_and_no_id_422(served: Served) -> None:
    unknown = new_task_id()
    for wait in ("", "?wait=5"):
        status, problem = await served.ask("GET", f"/v1/tasks/{unknown}{wait}")
        assert (status, problem["task_id"]) == (404, str(unknown))
    for method, path in (("GET", ""), ("GET", "/timeline"), ("POST", "/cancel"), ("POST", "/retry")):
        status, problem = await served.ask(method, f"/v1/tasks/17{path}")
        assert status == 422
        assert "17" in problem["detail"] or "task_id" in problem["detail"]
        if path:
            assert (await served.ask(method, f"/v1/tasks/{unknown}{path}"))[0] == 404


async def test_a_wait_ends_when_the_task_does(served: Served) -> None:
    task_id = await served.publish()
    waiting = asyncio.create_task(served.ask("GET", f"/v1/tasks/{task_id}?wait=30"))
    with_payload = asyncio.create_task(served.ask("GET", f"/v1/tasks/{task_id}?wait=30&payload=true"))
    await eventually(lambda: len(served.manager.waiters._waiting.get(task_id, ())) == 2)
    await end(served, [task_id])
    status, view = await waiting
    assert (status, view["state"], view["result"]) == (200, "completed", 3)
    assert await with_payload == (200, view | {"payload": {"x": 1}})
    assert await served.ask("GET", f"/v1/tasks/{task_id}?wait=30") == (200, view)  # over before it began


async def test_a_wait_that_ends_before_the_task_shows_it_as_it_is(served: Served) -> None:
    task_id = await served.publish()
    status, view = await served.ask("GET", f"/v1/tasks/{task_id}?wait=0.1")
    assert (status, view["state"]) == (200, "pending")


async def test_a_wrong_query_is_422_and_named(served: Served) -> None:
    task_id = await served.publish()
    for query, word in (
        ("wait=long", "wait"),
        ("wait=61", "60"),
        ("wait=-1", "wait"),
        ("wait=nan", "wait"),
        ("payload=yes", "payload"),
        ("colour=red", "colour"),
    ):
        status, problem = await served.ask("GET", f"/v1/tasks/{task_id}?{query}")
        assert status == 422, query
        assert word in problem["detail"]


# Waiting for many.


async def test_the_stream_tells_each_task_as_it_ends(served: Served) -> None:
    ids = new_ids(4)
    await insert_live(served.manager.database, ids[1:], run_at=now())
    await insert_final(served.manager.database, ids[:1], finished_at=now())
    unknown = new_task_id()
    body = {"ids": [str(id) for id in [*ids, unknown]], "timeout": 30}
    async with served.http.post("/v1/tasks/wait", json=body) as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        told = lines(response)
        first = [await anext(told), await anext(told)]
        assert {one["id"] for one in first} == {str(ids[0]), str(unknown)}
        assert {"id": str(unknown), "unknown": True} in first
        for id in ids[1:]:
            await end(served, [id])
            view = await anext(told)
            assert (view["id"], view["state"], view["result"]) == (str(id), "completed", 3)
        assert await anext(told, None) is None


async def test_the_stream_ends_at_its_timeout_with_a_status_long_before(served: Served) -> None:
    task_id = await served.publish()
    body = {"ids": [str(task_id)], "timeout": 0.5}
    async with served.http.post("/v1/tasks/wait", json=body) as response:
        assert served.manager.waiters.waiting == 1  # the status came while it waits
        assert await response.read() == b""
    assert served.manager.waiters.waiting == 0
    body["timeout"] = 0
    async with served.http.post("/v1/tasks/wait", json=body) as response:
        assert await response.read() == b""


async def test_the_stream_sends_an_empty_line_now_and_then(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.02)
    task_id = await served.publish()
    async with served.http.post("/v1/tasks/wait", json={"ids": [str(task_id)], "timeout": 30}) as response:
        assert await response.content.readline() == b"\n"
        assert await response.content.readline() == b"\n"
        await end(served, [task_id])
        assert [line["state"] async for line in lines(response)] == ["completed"]


async def test_a_client_that_goes_away_stops_the_wait(served: Served) -> None:
    task_id = await served.publish()
    async with served.http.post("/v1/tasks/wait", json={"ids": [str(task_id)], "timeout": 60}):
        assert served.manager.waiters.waiting == 1
    await eventually(lambda: served.manager.waiters.waiting == 0)
    task = asyncio.create_task(served.ask("GET", f"/v1/tasks/{task_id}?wait=60"))
    await eventually(lambda: served.manager.waiters.waiting == 1)
    task.cancel()
    await eventually(lambda: served.manager.waiters.waiting == 0)


async def test_thousands_are_waited_for_in_one_request(served: Served) -> None:
    ids = new_ids(5_000)
    await insert_live(served.manager.database, ids, run_at=now())
    body: dict[str, Any] = {"ids": [str(id) for id in ids], "timeout": 60}
    async with served.http.post("/v1/tasks/wait", json=body) as response:
        for start in range(0, len(ids), 500):
            await end(served, ids[start : start + 500])
        assert {line["id"] async for line in lines(response)} == set(body["ids"])


async def test_a_wrong_wait_is_422_and_named(served: Served) -> None:
    one = str(new_task_id())
    wrong: list[tuple[dict[str, Any], str | None]] = [
        ({"ids": []}, "/ids"),
        ({"ids": [one] * (MAX_WAIT_TASKS + 1)}, "/ids"),
        ({"ids": ["17"]}, "/ids/0"),
        ({"ids": [one], "timeout": 61}, "/timeout"),
        ({"ids": [one], "colour": "red"}, None),
        ({}, None),
    ]
    for body, pointer in wrong:
        status, problem = await served.ask("POST", "/v1/tasks/wait", json=body)
        assert (status, problem.get("pointer")) == (422, pointer), problem


async def test_waits_end_when_the_server_stops(served: Served) -> None:
    task_id = await served.publish()
    async with served.http.post("/v1/tasks/wait", json={"ids": [str(task_id)], "timeout": 60}) as response:
        single = asyncio.create_task(served.ask("GET", f"/v1/tasks/{task_id}?wait=60"))
        await eventually(lambda: len(served.manager.waiters._waiting[task_id]) == 2)
        async with asyncio.timeout(10):
            await served.server.stop()
            assert await response.read() == b""
            assert (await single)[1]["state"] == "pending"


# Listing.


async def test_the_list_is_paged_and_filtered(served: Served) -> None:
    ids = [await served.publish(kind="add" if number % 2 else "sub") for number in range(6)]
    await served.ask("POST", f"/v1/tasks/{ids[5]}/cancel")
    _, page = await served.ask("GET", "/v1/tasks?limit=4")
    assert [view["id"] for view in page["tasks"]] == [str(id) for id in ids[:1:-1]]
    _, rest = await served.ask("GET", "/v1/tasks", params={"limit": "4", "cursor": page["next"]})
    assert [view["id"] for view in rest["tasks"]] == [str(id) for id in ids[1::-1]]
    assert "next" not in rest
    _, page = await served.ask("GET", "/v1/tasks?kind=add&state=pending&state=cancelled&queue=default")
    assert {view["id"] for view in page["tasks"]} == {str(id) for id in ids[1::2]}
    _, page = await served.ask("GET", "/v1/tasks?state=cancelled")
    assert [view["id"] for view in page["tasks"]] == [str(ids[5])]
    _, page = await served.ask("GET", "/v1/tasks?error=before%20it%20ran&created_after=2020-01-01T00:00:00%2B01:00")
    assert [view["id"] for view in page["tasks"]] == [str(ids[5])]
    assert (await served.ask("GET", "/v1/tasks?created_before=2020-01-01T00:00:00Z"))[1]["tasks"] == []


async def test_a_wrong_filter_is_422_and_named(served: Served) -> None:
    for query, word in (
        ("colour=red", "colour"),
        ("state=done", "state"),
        ("limit=501", "limit"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        ("kind=a%20b", "kind"),
        ("queue=a%00", "queue"),
        ("error=", "error"),
        ("error=a%00", "error"),
        ("created_after=2030-01-01T00:00:00", "created_after"),
        ("created_before=soon", "created_before"),
    ):
        status, problem = await served.ask("GET", f"/v1/tasks?{query}")
        assert status == 422, query
        assert word in problem["detail"]


# Cancelling.


async def test_a_waiting_task_is_cancelled_at_once(served: Served) -> None:
    task_id = await served.publish()
    status, answer = await served.ask("POST", f"/v1/tasks/{task_id}/cancel")
    assert (status, answer) == (200, {"id": str(task_id), "state": "cancelled", "cancel_requested": False})
    _, view = await served.ask("GET", f"/v1/tasks/{task_id}")
    assert (view["state"], view["error"]["type"]) == ("cancelled", "Cancelled")
    status, problem = await served.ask("POST", f"/v1/tasks/{task_id}/cancel")
    assert status == 409
    assert "cancelled" in problem["detail"]


async def test_a_released_task_is_asked_to_stop(served: Served) -> None:
    (queued,) = new_ids(1)
    await insert_live(served.manager.database, [queued], state=TaskState.QUEUED, run_at=now())
    status, answer = await served.ask("POST", f"/v1/tasks/{queued}/cancel")
    assert (status, answer) == (202, {"id": str(queued), "state": "queued", "cancel_requested": True})
    assert (await served.ask("GET", f"/v1/tasks/{queued}"))[1]["cancel_requested"] is True


async def test_a_retry_is_told_on_both_sides(served: Served) -> None:
    task_id = await served.publish()
    await served.ask("POST", f"/v1/tasks/{task_id}/cancel")
    _, again = await served.ask("POST", f"/v1/tasks/{task_id}/retry")
    _, timeline = await served.ask("GET", f"/v1/tasks/{task_id}/timeline")
    assert (timeline["events"][-1]["event"], timeline["events"][-1]["detail"]) == ("retried", f"as {again['id']}")
    _, timeline = await served.ask("GET", f"/v1/tasks/{again['id']}/timeline")
    assert timeline["events"][0]["detail"] == f"retry of {task_id}"


async def test_the_timeline_tells_what_happened(served: Served) -> None:
    task_id = await served.publish()
    await served.ask("POST", f"/v1/tasks/{task_id}/cancel")
    status, timeline = await served.ask("GET", f"/v1/tasks/{task_id}/timeline")
    assert status == 200
    assert [event["event"] for event in timeline["events"]] == ["accepted", "cancelled"]
