"""Requests in, answers out: how they are cut, which connections are used again, and what a broken one means."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine

import pytest

from tacoq_publisher import connections as connections_module
from tacoq_publisher.connections import Connections
from tacoq_publisher.http1 import Fault
from tests.publisher.raw_server import OK, Peer, always, ask, once, opened, then_nothing, under_uvloop
from tests.support.eventually import eventually


async def cancelled(task: asyncio.Task[tuple[int, bytes]]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("in_bytes", [False, True], ids=["at once", "in single bytes"])
@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (OK, (200, b"ok")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", (200, b"")),
        (
            b"HTTP/1.1 404 X\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n3\r\nay!\r\n0\r\nT: x\r\n\r\n",
            (404, b"okay!"),
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, b"")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: x\r\n\r\n" + OK, (200, b"ok")),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", (200, b"ok")),
    ],
    ids=["length", "length 0", "chunked", "204", "304", "after interim heads", "HTTP/1.0 that is kept"],
)
async def test_an_answer_is_given_whole_and_its_connection_used_again(
    raw: bytes, answer: tuple[int, bytes], in_bytes: bool
) -> None:
    parts = [raw[i : i + 1] for i in range(len(raw))] if in_bytes else [raw]
    async with opened(always(*parts)) as (server, connections):
        assert [await ask(connections) for _ in range(3)] == [answer] * 3
        assert [len(peer.requests) for peer in server.peers] == [3]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad",
        OK + b"HTTP/1.1 5",
        OK + b"no",
    ],
    ids=["Connection: close", "HTTP/1.0", "a second answer", "the start of one", "something else"],
)
async def test_a_connection_is_not_used_again_after(raw: bytes) -> None:
    async with opened(then_nothing(raw)) as (server, connections):
        assert [await ask(connections) for _ in range(2)] == [(200, b"ok")] * 2
        assert len(server.peers) == 2
        await eventually(lambda: all(peer.gone for peer in server.peers))


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_without_length_ends_with_its_connection(version: bytes) -> None:
    async with opened(once(b"HTTP/%s 200 OK\r\n\r\n" % version, b"who", b"le")) as (server, connections):
        assert [await ask(connections) for _ in range(2)] == [(200, b"whole")] * 2
        assert len(server.peers) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    ],
    ids=["nothing", "half a head", "an interim head", "less than its length", "no last chunk"],
)
async def test_an_answer_that_is_cut_short_is_a_fault(raw: bytes) -> None:
    async with opened(once(raw)) as (_, connections):
        with pytest.raises(Fault, match="the connection broke") as caught:
            await ask(connections)
        assert caught.value.sent


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_fault(raw: bytes) -> None:
    async with opened(then_nothing(raw)) as (server, connections):
        with pytest.raises(Fault, match="what it answers is not HTTP") as caught:
            await ask(connections)
        assert caught.value.sent
        await eventually(lambda: server.peers[0].gone)


async def test_a_connection_with_bytes_that_nobody_asked_for_is_closed() -> None:
    surplus = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer(OK)
        await surplus.wait()
        surplus.clear()
        await peer.say(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await peer.until_gone()

    async with opened(script) as (server, connections):
        await ask(connections)
        surplus.set()
        await eventually(lambda: server.peers[0].gone)
        assert await ask(connections) == (200, b"ok")
        assert len(server.peers) == 2


async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    async with opened(once(OK)) as (server, connections):
        for count in range(1, 4):
            assert await ask(connections) == (200, b"ok")
            await eventually(lambda: not connections._open)
            assert len(server.peers) == count


async def test_a_connection_that_was_idle_for_too_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(always(OK)) as (server, connections):
        await ask(connections)
        monkeypatch.setattr(connections_module, "KEEP_IDLE_SECONDS", 0)
        await ask(connections)
        assert len(server.peers) == 2
        await eventually(lambda: server.peers[0].gone)


@pytest.mark.parametrize(("said", "connections_made"), [("timeout=60, max=100", 1), ("max=9, Timeout=1", 3), ("x", 1)])
async def test_a_connection_is_used_for_as_long_as_the_server_says_that_it_keeps_it(
    said: str, connections_made: int
) -> None:
    """A second less: the request has to get there."""
    answer = f"HTTP/1.1 200 OK\r\nKeep-Alive: {said}\r\nContent-Length: 2\r\n\r\nok"
    async with opened(always(answer.encode())) as (server, connections):
        assert [await ask(connections) for _ in range(3)] == [(200, b"ok")] * 3
        assert len(server.peers) == connections_made


async def test_connections_that_were_idle_for_too_long_are_closed_by_later_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(always(OK)) as (server, connections):
        await asyncio.gather(*(ask(connections) for _ in range(3)))
        monkeypatch.setattr(connections_module, "KEEP_IDLE_SECONDS", -1)
        await ask(connections)
        await eventually(lambda: not connections._open)
        assert all(peer.gone for peer in server.peers)


async def test_simultaneous_requests_have_connections_of_their_own_and_leave_them_to_later_ones() -> None:
    all_there = asyncio.Barrier(20)

    async def script(peer: Peer) -> None:
        request = await peer.request()
        await all_there.wait()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body), request.body)
        while True:
            await peer.answer(OK)

    async with opened(script) as (server, connections):
        bodies = [b"%d" % i for i in range(20)]
        answers = await asyncio.gather(*(ask(connections, body) for body in bodies))
        assert answers == [(200, body) for body in bodies]
        await asyncio.gather(*(ask(connections) for _ in range(20)))
        assert [len(peer.requests) for peer in server.peers] == [2] * 20


async def test_the_late_answer_of_a_cancelled_request_is_given_to_nobody() -> None:
    late = asyncio.Event()

    async def script(peer: Peer) -> None:
        if (await peer.request()).target == "/slow":
            await late.wait()
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
            await peer.until_gone()
        else:
            await peer.say(OK)

    async with opened(script) as (server, connections):
        slow = asyncio.create_task(ask(connections, target="/slow"))
        await eventually(lambda: server.requests)
        await cancelled(slow)
        late.set()
        assert await ask(connections) == (200, b"ok")
        await eventually(lambda: server.peers[0].gone)
        assert len(server.peers) == 2


async def test_silence_is_a_fault_at_the_deadline() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(OK)
        await peer.answer(OK[:-1])
        await peer.until_gone()

    async with opened(script) as (server, connections):
        await ask(connections)
        with pytest.raises(Fault, match="no answer in time") as caught:
            await ask(connections, seconds=0.1)
        assert caught.value.sent
        await eventually(lambda: server.peers[0].gone)


async def test_a_refused_connection_is_a_fault_in_which_nothing_was_sent() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        connections = Connections(f"http://127.0.0.1:{bound.getsockname()[1]}", {})
        with pytest.raises(Fault, match=r"cannot connect \(.*refused|Connect call failed") as caught:
            await ask(connections)
        assert not caught.value.sent
        await connections.close()


async def test_a_name_that_nobody_knows_is_a_fault_in_which_nothing_was_sent() -> None:
    for name in ("nowhere.invalid", "a..b", 70 * "a" + ".invalid"):
        connections = Connections(f"http://{name}", {})
        with pytest.raises(Fault, match="cannot connect") as caught:
            await ask(connections)
        assert not caught.value.sent


async def test_closing_ends_idle_and_busy_connections() -> None:
    async def script(peer: Peer) -> None:
        while (await peer.request()).target != "/slow":
            await peer.say(OK)
        await peer.until_gone()

    async with opened(script) as (server, connections):
        busy = [asyncio.create_task(ask(connections, target="/slow")) for _ in range(2)]
        await eventually(lambda: len(server.requests) == 2)
        await asyncio.gather(*(ask(connections) for _ in range(3)))
        await asyncio.gather(connections.close(), connections.close())
        assert not connections._open
        for request in busy:
            with pytest.raises(Fault, match="it was closed") as caught:
                await request
            assert caught.value.sent
        await connections.close()
        await eventually(lambda: server.closed == len(server.peers))


async def test_an_answer_without_length_is_not_taken_for_whole_when_this_side_closes() -> None:
    async with opened(then_nothing(b"HTTP/1.0 200 OK\r\n\r\nhal")) as (_, connections):
        asking = asyncio.create_task(ask(connections))
        await eventually(lambda: any(connection._status for connection in connections._open))
        await connections.close()
        with pytest.raises(Fault, match="it was closed"):
            await asking


async def test_a_request_whose_connection_is_being_made_while_all_are_closed_is_not_sent() -> None:
    async with opened(always(OK)) as (server, connections):
        asking = asyncio.create_task(ask(connections))
        await asyncio.sleep(0)
        await connections.close()
        with pytest.raises(Fault) as caught:
            await asking
        assert not caught.value.sent
        assert not server.requests
        assert not connections._open


async def test_a_request_cancelled_while_its_connection_is_made_leaves_nothing_behind() -> None:
    async with opened(always(OK)) as (server, connections):
        for turns in range(30):
            asking = asyncio.create_task(ask(connections))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        assert await ask(connections) == (200, b"ok")
        await connections.close()
        await eventually(lambda: server.closed == len(server.peers))
        assert not connections._open


@pytest.mark.parametrize(
    "scenario",
    [
        test_a_connection_with_bytes_that_nobody_asked_for_is_closed,
        test_a_connection_that_the_server_closed_while_idle_is_not_used,
        test_simultaneous_requests_have_connections_of_their_own_and_leave_them_to_later_ones,
        test_the_late_answer_of_a_cancelled_request_is_given_to_nobody,
        test_silence_is_a_fault_at_the_deadline,
        test_a_refused_connection_is_a_fault_in_which_nothing_was_sent,
        test_closing_ends_idle_and_busy_connections,
        test_an_answer_without_length_is_not_taken_for_whole_when_this_side_closes,
        test_a_request_whose_connection_is_being_made_while_all_are_closed_is_not_sent,
        test_a_request_cancelled_while_its_connection_is_made_leaves_nothing_behind,
    ],
)
def test_under_uvloop(scenario: Callable[[], Coroutine[object, object, None]]) -> None:
    under_uvloop(scenario)
