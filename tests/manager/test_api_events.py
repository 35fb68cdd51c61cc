"""/v1/events: who listens is told of every end that fits, over real HTTP, and holds up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from tacoq_manager import events as stage
from tacoq_manager import transitions as moves
from tacoq_manager.api import events as door
from tacoq_manager.events import Listener
from tacoq_manager.store import settle as store
from tacoq_manager.transitions import Transition
from tacoq_protocol.events import TaskEnd
from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Completed, Expired, Failed, KindSpec
from tacoq_protocol.states import TaskState
from tests.manager.rows import insert_live, new_ids
from tests.manager.serving import Served, serving
from tests.support import eventually

SESSION = UUID(int=1)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Stream:
    """An answer, event by event."""

    response: aiohttp.ClientResponse
    comments: int = 0

    async def next(self) -> tuple[str, Any]:
        """Return name and data of the next event, ("", None) at the end; count comments on the way to it."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            async for line in self.response.content:
                field, _, value = line.decode().rstrip("\n").partition(":")
                if not line.strip() and "event" in fields:
                    data = json.loads(fields["data"])
                    assert fields.get("id") == data.get("id")
                    return fields["event"], data
                if line.startswith(b":"):
                    self.comments += 1
                elif line.strip():
                    fields[field] = value.removeprefix(" ")
        return "", None

    async def ends(self, count: int) -> list[dict[str, Any]]:
        """Return the data of so many events, all of ends."""
        told = [await self.next() for _ in range(count)]
        assert {name for name, _ in told} <= {"task"}
        return [data for _, data in told]


@asynccontextmanager
async def listening(served: Served, query: str = "") -> AsyncIterator[Stream]:
    async with served.http.get(f"/v1/events{query}") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        stream = Stream(response)
        assert await stream.next() == ("ready", {"keep_alive": door.KEEP_ALIVE_SECONDS})
        yield stream


async def released(served: Served, count: int, **columns: Any) -> list[UUID]:
    """Make tasks that a worker has."""
    ids = new_ids(count)
    await insert_live(served.manager.database, ids, state=TaskState.QUEUED, run_at=now(), **columns)
    return ids


def completions(ids: Sequence[UUID]) -> list[Transition]:
    return [moves.complete(Completed(task_id, 0, now(), 0.1, b"5"), SESSION) for task_id in ids]


async def complete(served: Served, ids: Sequence[UUID]) -> None:
    """As if it had reported all of them at once."""
    assert len(await served.manager.settler.apply(completions(ids))) == len(ids)


async def complete_elsewhere(served: Served, ids: Sequence[UUID]) -> None:
    """As another manager does, before it tells of it."""
    await store.apply(served.manager.database.settle, completions(ids))


def end(**fields: Any) -> TaskEnd:
    """One that is long."""
    given = {"kind": "k" * 200, "queue": "default", "fairness_key": "f" * 200, "state": TaskState.COMPLETED}
    return TaskEnd(id=new_task_id(), created_at=now(), finished_at=now(), **(given | fields))


# Told.


async def test_every_final_state_is_told_with_what_is_known_and_neither_payload_nor_result(served: Served) -> None:
    done, failed, late = await released(served, 3)
    async with listening(served) as stream:
        await complete(served, [done])
        (told,) = await stream.ends(1)
        assert told.keys() == {"id", "kind", "queue", "state", "created_at", "started_at", "finished_at"}
        assert (told["id"], told["kind"], told["queue"], told["state"]) == (str(done), "add", "default", "completed")

        report = Failed(failed, 0, now(), 0.1, 0, ErrorInfo("ZeroDivisionError", "by zero"), False, None, "add")
        await served.manager.settler.apply([moves.fail(report, SESSION, KindSpec("add"), 1.0)])
        (told,) = await stream.ends(1)
        assert (told["state"], told["error_type"], told["attempt"]) == ("failed", "ZeroDivisionError", 1)

        await served.manager.settler.apply([moves.run_out(Expired(late, 0), SESSION)])
        assert [told["state"] for told in await stream.ends(1)] == ["expired"]

        task_id = await served.publish(priority=7, fairness_key="customer 17")
        await served.ask("POST", f"/v1/tasks/{task_id}/cancel")
        (told,) = await stream.ends(1)
        assert (told["state"], told["priority"], told["fairness_key"]) == ("cancelled", 7, "customer 17")
        _, view = await served.ask("GET", f"/v1/tasks/{task_id}")
        assert all(view[name] == told[name] for name in told.keys() & view.keys())


async def test_one_that_was_waited_for_is_told_without_a_look(served: Served) -> None:
    (task_id,) = await released(served, 1)
    async with listening(served) as stream:
        waiting = asyncio.create_task(served.ask("GET", f"/v1/tasks/{task_id}?wait=30"))
        await eventually(lambda: served.manager.waiters.waits_for(task_id))
        await complete(served, [task_id])
        (told,) = await stream.ends(1)
        _, view = await waiting
        assert all(view[name] == told[name] for name in told)
    assert served.manager.database.events._connection is None


async def test_what_is_no_end_is_not_told(served: Served) -> None:
    (task_id,) = await released(served, 1)
    report = Failed(task_id, 0, now(), 0.1, 0, ErrorInfo("E", "m"), True, None, "add")
    async with listening(served) as stream:
        await served.manager.settler.apply([moves.fail(report, SESSION, KindSpec("add"), 60.0)])
        (other,) = await released(served, 1)
        await complete(served, [other])
        assert [told["id"] for told in await stream.ends(1)] == [str(other)]


async def test_what_another_manager_settled_is_told(served: Served) -> None:
    """The ids are all that it says. What has not ended, or is not there any more, is passed over."""
    ids = await released(served, 3)
    async with listening(served) as stream:
        await complete_elsewhere(served, ids[:2])
        served.manager.teller.heard([*ids, new_task_id()])
        assert {told["id"] for told in await stream.ends(2)} == {str(id) for id in ids[:2]}


@pytest.mark.parametrize(
    ("query", "which"),
    [
        ("", "abcd"),
        ("?kind=add", "ad"),
        ("?kind=add&kind=sub", "abd"),
        ("?queue=slow", "cd"),
        ("?kind=add&queue=slow", "d"),
        ("?state=completed&state=failed", "abcd"),
        ("?state=cancelled", ""),
        ("?fairness_key=", "abcd"),
        ("?fairness_key=x", ""),
    ],
)
async def test_filters_leave_those_that_fit_all_of_them(served: Served, query: str, which: str) -> None:
    made = {
        name: (await released(served, 1, kind=kind, queue=queue))[0]
        for name, kind, queue in (
            ("a", "add", "default"),
            ("b", "sub", "default"),
            ("c", "c", "slow"),
            ("d", "add", "slow"),
        )
    }
    async with listening(served, query) as stream, listening(served) as all_of_them:
        await complete(served, list(made.values()))
        assert len(await all_of_them.ends(len(made))) == len(made)
        told = {one["id"] for one in await stream.ends(len(which))}
        assert told == {str(made[name]) for name in which}
        await served.server.stop()
        assert await stream.next() == ("", None)


async def test_what_nobody_here_wants_is_not_read(served: Served) -> None:
    ids = await released(served, 2)
    async with listening(served, "?state=failed"):
        await complete(served, ids)
    assert served.manager.database.events._connection is None


async def test_while_nobody_listens_nothing_is_read_and_nothing_kept(served: Served) -> None:
    ids = await released(served, 4)
    await complete(served, ids[:2])
    served.manager.teller.heard(ids[:2])
    assert not served.manager.events._unread
    assert served.manager.database.events._connection is None
    async with listening(served) as stream:
        await complete(served, ids[2:])
        assert {told["id"] for told in await stream.ends(2)} == {str(id) for id in ids[2:]}
    assert served.manager.database.events._connection is not None


async def test_thousands_at_once_are_all_told_to_all(served: Served) -> None:
    ids = await released(served, 4_000)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(listening(served)) for _ in range(3)]
        await complete(served, ids)
        for told in await asyncio.gather(*(stream.ends(len(ids)) for stream in streams)):
            assert {one["id"] for one in told} == {str(id) for id in ids}


async def test_a_comment_comes_while_nothing_ends(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "KEEP_ALIVE_SECONDS", 0.02)
    async with listening(served) as stream:
        following = asyncio.create_task(stream.next())
        await eventually(lambda: stream.comments > 1)
        await complete(served, await released(served, 1))
        assert (await following)[0] == "task"


# Refused.


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("colour=red", ["unknown", "'colour'"]),
        ("kind=a%20b", ["'kind'", "'a b'"]),
        ("queue=a%00", ["'queue'"]),
        ("state=done", ["'state'", "'completed', 'failed', 'cancelled' or 'expired'"]),
        ("state=pending", ["'state'", "'completed', 'failed', 'cancelled' or 'expired'"]),
    ],
)
async def test_a_wrong_filter_is_422_and_named(served: Served, query: str, words: list[str]) -> None:
    status, problem = await served.ask("GET", f"/v1/events?{query}")
    assert status == 422
    assert [word for word in words if word not in problem["detail"]] == []
    assert served.manager.events.listening == 0


async def test_it_wants_the_key_as_every_door(database: str) -> None:
    async with serving(database, api_key="geheim") as served:
        assert (await served.ask("GET", "/v1/events"))[0] == 401
        async with served.http.get("/v1/events", headers={"Authorization": "Bearer geheim"}) as response:
            assert await Stream(response).next() == ("ready", {"keep_alive": 15.0})


async def test_the_docs_describe_it(served: Served) -> None:
    _, document = await served.ask("GET", "/openapi.json")
    operation = document["paths"]["/v1/events"]["get"]
    assert {parameter["name"] for parameter in operation["parameters"]} == {"kind", "queue", "fairness_key", "state"}
    schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert schema == {"$ref": "#/components/schemas/TaskEnd"}


# Slow, gone, stopped.


@asynccontextmanager
async def not_reading(served: Served) -> AsyncIterator[tuple[Stream, Listener]]:
    """A client of which nothing is read but the first event, and what the manager has for it."""
    before = set(map(id, served.manager.events._listeners))
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(served.server.url, connector=connector, read_bufsize=1024) as http:
        async with http.get("/v1/events") as response:
            stream = Stream(response)
            assert (await stream.next())[0] == "ready"
            (listener,) = [one for one in served.manager.events._listeners if id(one) not in before]
            yield stream, listener


async def test_who_reads_too_slowly_is_told_how_much_was_lost_and_disturbs_nobody(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MOST_UNTOLD", 1_000)
    events, ended = served.manager.events, 0
    async with not_reading(served) as (slow, listener), listening(served) as quick:
        while not listener._lost:
            for _ in range(500):
                events._tell(end())
            ended += 500
            assert len(await quick.ends(500)) == 500
            assert listener.untold <= 1_000
        told = 0
        while (event := await slow.next())[0] == "task":
            told += 1
        assert event == ("lost", {"count": ended - told})
        events._tell(end(kind="after"))
        assert (await slow.next())[1]["kind"] == (await quick.next())[1]["kind"] == "after"


async def test_who_goes_away_leaves_nothing_behind(served: Served) -> None:
    async with listening(served):
        assert served.manager.events.listening == 1
    await eventually(lambda: served.manager.events.listening == 0)


async def test_who_goes_away_without_having_read_leaves_nothing_behind(served: Served) -> None:
    async with not_reading(served) as (_, listener):
        await fill(served, listener)
    await eventually(lambda: served.manager.events.listening == 0)


async def test_streams_end_when_the_server_stops_and_tell_what_they_have(served: Served) -> None:
    ids = await released(served, 1_000)
    async with listening(served) as stream, listening(served, "?kind=other") as other:
        await complete(served, ids)
        await eventually(lambda: not served.manager.events._reading)
        async with asyncio.timeout(3):
            await served.server.stop()
        assert len(await stream.ends(len(ids))) == len(ids)
        assert await stream.next() == await other.next() == ("", None)
    assert served.manager.events.listening == 0


async def test_who_does_not_read_holds_up_no_stop(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "END_SECONDS", 0.1)
    async with not_reading(served) as (_, listener):
        await fill(served, listener)
        async with asyncio.timeout(3):
            await served.server.stop()
    assert served.manager.events.listening == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_one_that_begins_when_the_manager_stops_ends_at_once(served: Served) -> None:
    served.manager.events.release()
    async with listening(served) as stream:
        assert await stream.next() == ("", None)


async def fill(served: Served, listener: Listener) -> None:
    """Tell of ends until its client's connection takes no more."""

    async def full() -> bool:
        for _ in range(1_000):
            served.manager.events._tell(end())
        return listener.untold > 5_000

    await eventually(full, interval=0.001)
