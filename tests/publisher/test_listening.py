"""Listening to events: from when it is entered, over streams that break, and what they say that they did not tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest

from tacoq_protocol.errors import FilterRefused, ManagerError, ManagerUnavailable
from tacoq_protocol.events import EndsLost, TaskEnd
from tacoq_publisher import Publisher, PublisherClosed, TaskState, new_task_id
from tests.publisher.raw_server import Peer, RawServer, Script, always, raw_server, under_uvloop
from tests.publisher.test_streams import END, HEAD, chunk
from tests.support.eventually import eventually

READY = b'event: ready\ndata: {"keep_alive":15.0}\n\n'
LOST = b'event: lost\ndata: {"count":7}\n\n'
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def end() -> TaskEnd:
    return TaskEnd(
        id=new_task_id(), kind="add", queue="default", state=TaskState.FAILED, created_at=NOW, error_type="E"
    )


def told(end: TaskEnd) -> bytes:
    return b"event: task\nid: %b\ndata: %b\n\n" % (str(end.id).encode(), msgspec.json.encode(end))


@asynccontextmanager
async def publisher(script: Script, retry_for: float = 10.0) -> AsyncIterator[tuple[RawServer, Publisher]]:
    async with raw_server(script) as server, Publisher(server.url, retry_for=retry_for) as tacoq:
        yield server, tacoq


async def test_events_are_given_as_they_come_and_what_is_none_is_left_out() -> None:
    one, other = end(), end()

    async def script(peer: Peer) -> None:
        first = told(one)
        await peer.answer(HEAD + chunk(READY + first[:30]))
        await peer.say(chunk(first[30:] + b":\n\nevent: of a newer manager\ndata: {}\n\n" + LOST), chunk(told(other)))
        await peer.until_gone()

    async with publisher(script) as (server, tacoq):
        async with tacoq.events(kinds=["add", "sub"], queues="q", fairness_keys=["a b"], states=["failed"]) as events:
            assert [await anext(events) for _ in range(3)] == [one, EndsLost(7), other]
        assert server.requests[0].target == "/v1/events?kind=add&kind=sub&queue=q&fairness_key=a+b&state=failed"
        await eventually(lambda: server.peers[0].gone)


async def test_it_is_entered_once_the_manager_is_ready() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer(HEAD)
        await go_on.wait()
        await peer.say(chunk(READY))
        await peer.until_gone()

    async with publisher(script) as (server, tacoq):
        entering = asyncio.create_task(tacoq.events().__aenter__())
        await eventually(lambda: server.requests)
        assert not entering.done()
        go_on.set()
        await entering


@pytest.mark.parametrize("ending", [END, b"", b"zz"])
async def test_stream_that_ends_is_opened_again_and_says_that_some_may_be_lost(ending: bytes) -> None:
    one, other = end(), end()

    async def script(peer: Peer) -> None:
        if len(server.peers) == 1:
            await peer.answer(HEAD + chunk(READY + told(one)) + ending)
            peer.writer.close()
        else:
            await peer.answer(HEAD + chunk(READY + told(other)))
            await peer.until_gone()

    async with publisher(script) as (server, tacoq):
        async with tacoq.events() as events:
            assert [await anext(events) for _ in range(3)] == [one, EndsLost(), other]


async def test_stream_that_was_quiet_for_long_is_opened_again_too() -> None:
    """For longer than a manager may be away."""
    quiet = 1.0

    async def script(peer: Peer) -> None:
        await peer.answer(HEAD + chunk(READY))
        if len(server.peers) == 1:
            await asyncio.sleep(quiet + 0.1)
            peer.writer.close()
        else:
            await peer.until_gone()

    async with publisher(script, retry_for=quiet) as (server, tacoq), tacoq.events() as events:
        assert await anext(events) == EndsLost()


async def test_manager_that_is_away_for_too_long_is_said_to_be() -> None:
    async with publisher(always(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"), retry_for=0.1) as (_, tacoq):
        with pytest.raises(ManagerUnavailable, match="listen to events"):
            async with tacoq.events():
                pass


async def test_manager_that_does_not_come_back_is_said_to_be_away() -> None:
    async def script(peer: Peer) -> None:
        if len(server.peers) == 1:
            await peer.answer(HEAD + chunk(READY))

    async with publisher(script, retry_for=0.1) as (server, tacoq):
        async with tacoq.events() as events:
            with pytest.raises(ManagerUnavailable, match="the tasks go on"):
                await anext(events)


async def test_filter_that_is_refused_says_why() -> None:
    problem = b'{"title":"No","status":422,"detail":"query parameter \'kind\': no"}'
    refusal = b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\n%b" % (len(problem), problem)
    async with publisher(always(refusal)) as (_, tacoq):
        with pytest.raises(FilterRefused, match="'kind'"):
            async with tacoq.events():
                pass


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", HEAD + chunk(READY + b"event: task\ndata: 7\n\n")],
)
async def test_answer_that_makes_no_sense_is_an_error(answer: bytes) -> None:
    async with publisher(always(answer)) as (_, tacoq):
        with pytest.raises(ManagerError, match="listen to events"):
            async with tacoq.events() as events:
                await anext(events)


async def test_publisher_that_is_closed_ends_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(HEAD + chunk(READY))
        await peer.until_gone()

    async with publisher(script) as (_, tacoq):
        async with tacoq.events() as events:
            following = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            await tacoq.close()
            with pytest.raises(PublisherClosed):
                await following


@pytest.mark.parametrize(
    "scenario",
    [test_events_are_given_as_they_come_and_what_is_none_is_left_out, test_publisher_that_is_closed_ends_it],
)
def test_under_uvloop(scenario: Callable[[], Coroutine[object, object, None]]) -> None:
    under_uvloop(scenario)
