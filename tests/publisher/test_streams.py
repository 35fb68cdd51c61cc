"""Answers that are read as they arrive: line by line, no faster than the caller takes them, and left early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from tacoq_publisher.http1 import Fault
from tacoq_publisher.settings import load_settings
from tacoq_publisher.transport import Answer, Transport
from tests.publisher.raw_server import MIB, OK, Peer, RawServer, Script, always, once, raw_server, under_uvloop
from tests.support.eventually import eventually

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def opened(script: Script) -> AsyncIterator[tuple[RawServer, Transport]]:
    async with raw_server(script) as server:
        async with Transport(load_settings(server.url), retry_for=0, try_seconds=10) as transport:
            yield server, transport


async def read(transport: Transport, silence: float = 10.0) -> list[bytes]:
    async with transport.stream("/wait", b"{}", silence=silence) as answer:
        assert not isinstance(answer, Answer)
        return [lines async for lines in answer]


async def test_lines_are_given_as_soon_as_they_are_complete() -> None:
    go_on = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        await peer.answer(HEAD + chunk(b"a\nb"))
        await go_on.acquire()
        await peer.say(chunk(b"b"), chunk(b"b\ncc\n"))
        await go_on.acquire()
        await peer.say(chunk(b"\n") + END)

    async with opened(script) as (_, transport):
        async with transport.stream("/wait", b"{}", silence=10) as answer:
            assert not isinstance(answer, Answer)
            seen = []
            async for lines in answer:
                seen.append(lines)
                go_on.release()
    assert seen == [b"a\n", b"bbb\ncc\n", b"\n"]


async def test_a_stream_that_was_read_to_its_end_leaves_its_connection_to_the_next_request() -> None:
    async with opened(always(HEAD, chunk(b"a\n"), END)) as (server, transport):
        assert [b"".join(await read(transport)) for _ in range(3)] == [b"a\n"] * 3
        answer = await transport.request("GET", "/x", action="ask")
        assert answer == Answer(200, b"a\n")
        assert len(server.peers) == 1


async def test_an_empty_stream_is_no_lines() -> None:
    async with opened(always(HEAD + END)) as (_, transport):
        assert await read(transport) == []


async def test_a_stream_that_is_left_early_is_closed() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(HEAD + chunk(b"a\n"))
        await peer.until_gone()

    async with opened(script) as (server, transport):
        async with transport.stream("/wait", b"{}", silence=10) as answer:
            assert not isinstance(answer, Answer)
            assert await anext(answer) == b"a\n"
        await eventually(lambda: server.peers[0].gone)
        async with transport.stream("/wait", b"{}", silence=10):
            pass
        await eventually(lambda: len(server.peers) == 2 and server.peers[1].gone)


async def test_a_stream_that_is_cancelled_is_closed() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(HEAD + chunk(b"a\n"))
        await peer.until_gone()

    async with opened(script) as (server, transport):
        reading = asyncio.create_task(read(transport))
        await eventually(lambda: server.requests)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        await eventually(lambda: server.peers[0].gone)


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + chunk(b"a\n"), HEAD + chunk(b"a")])
async def test_silence_is_a_fault(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(said)
        await peer.until_gone()

    async with opened(script) as (server, transport):
        with pytest.raises(Fault, match="no answer in time") as caught:
            await read(transport, silence=0.1)
        assert caught.value.sent
        await eventually(lambda: server.peers[0].gone)


async def test_a_request_for_a_stream_that_nobody_reads_is_a_fault_too() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.Event().wait()

    async with opened(script) as (_, transport):
        async with asyncio.timeout(10):
            with pytest.raises(Fault):
                async with transport.stream("/wait", bytes(20 * MIB), silence=0.1):
                    pass


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "the connection broke"),
        (HEAD + chunk(b"a\n"), "the connection broke"),
        (HEAD + chunk(b"a\n") + b"zz", "not HTTP"),
        (HEAD + chunk(b"a\nb") + END, "in the middle of a line"),
        (b"HTTP/1.0 200 OK\r\n\r\na\nb", "in the middle of a line"),
    ],
)
async def test_a_stream_that_breaks_off_is_a_fault(said: bytes, message: str) -> None:
    async with opened(once(said)) as (_, transport):
        with pytest.raises(Fault, match=message) as caught:
            await read(transport)
        assert caught.value.sent


async def test_what_arrived_before_a_stream_broke_is_given_first() -> None:
    async with opened(once(HEAD + chunk(b"a\n"))) as (_, transport):
        async with transport.stream("/wait", b"{}", silence=10) as answer:
            assert not isinstance(answer, Answer)
            await eventually(lambda: not transport._connections._open)
            assert await anext(answer) == b"a\n"
            with pytest.raises(Fault):
                await anext(answer)


async def test_another_answer_than_200_is_given_whole_and_5xx_is_a_fault() -> None:
    answers = [b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", b"HTTP/1.1 503 No\r\nRetry-After: 7\r\n" + OK[17:]]

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.answer(answer)

    async with opened(script) as (server, transport):
        async with transport.stream("/wait", b"{}", silence=10) as answer:
            assert answer == Answer(404, b"no")
        with pytest.raises(Fault) as caught:
            await read(transport)
        assert (caught.value.status, caught.value.pause, caught.value.sent) == (503, 7.0, True)
        assert len(server.peers) == 1


async def test_what_is_not_read_is_held_back_and_then_arrives() -> None:
    line = bytes(64 * 1024 - 1).replace(b"\0", b"x") + b"\n"
    count = 32 * MIB // len(line)
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.answer(HEAD)
        for _ in range(count):
            await peer.say(chunk(line))
            sent += 1
        await peer.say(END)
        await peer.answer(OK)

    async with opened(script) as (server, transport):
        async with transport.stream("/wait", b"{}", silence=10) as answer:
            assert not isinstance(answer, Answer)
            (connection,) = transport._connections._open
            await eventually(lambda: not connection._transport.is_reading())
            assert connection._unread < 2 * MIB
            assert sent < count
            assert b"".join([lines async for lines in answer]) == line * count
        assert sent == count
        assert await transport.request("GET", "/x", action="ask") == Answer(200, b"ok")
        assert len(server.peers) == 1


async def test_a_stream_that_is_held_back_can_be_closed() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(HEAD)
        while True:
            await peer.say(chunk(bytes(MIB)))

    async with opened(script) as (server, transport):
        async with transport.stream("/wait", b"{}", silence=10) as answer:
            assert not isinstance(answer, Answer)
            (connection,) = transport._connections._open
            await eventually(lambda: not connection._transport.is_reading())
            await transport.close()
            with pytest.raises(Fault, match="it was closed"):
                await anext(answer)
        await eventually(lambda: server.peers[0].gone)


@pytest.mark.parametrize(
    "scenario",
    [
        test_lines_are_given_as_soon_as_they_are_complete,
        test_a_stream_that_is_left_early_is_closed,
        test_what_is_not_read_is_held_back_and_then_arrives,
        test_a_stream_that_is_held_back_can_be_closed,
    ],
)
def test_under_uvloop(scenario: Callable[[], Coroutine[object, object, None]]) -> None:
    under_uvloop(scenario)
