"""What a request looks like on the wire, and how much of it is sent: credentials, queries, large and refused bodies."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from urllib.parse import parse_qs

import pytest

from tacoq_publisher.connections import Connections
from tacoq_publisher.settings import load_settings
from tacoq_publisher.transport import Query, Transport
from tests.publisher.raw_server import MIB, OK, Peer, always, ask, opened, raw_server, under_uvloop
from tests.support.eventually import eventually


@pytest.mark.parametrize(
    ("url", "first", "host"),
    [
        ("http://manager.example", "GET /x HTTP/1.1", "manager.example"),
        ("http://manager.example:80", "GET /x HTTP/1.1", "manager.example"),
        ("https://manager.example:443", "GET /x HTTP/1.1", "manager.example"),
        ("https://manager.example:80", "GET /x HTTP/1.1", "manager.example:80"),
        ("http://MANAGER.example:3000/", "GET /x HTTP/1.1", "manager.example:3000"),
        ("http://m\u00fcnchen.example", "GET /x HTTP/1.1", "xn--mnchen-3ya.example"),
        ("http:/manager.example", "GET /x HTTP/1.1", "manager.example"),
        ("http://[::1]", "GET /x HTTP/1.1", "[::1]"),
        ("http://[2001:db8::1]:3000", "GET /x HTTP/1.1", "[2001:db8::1]:3000"),
        ("http://manager.example/queue/a%20b", "GET /queue/a%20b/x HTTP/1.1", "manager.example"),
        ('http://manager.example/w\u00e4g "x"', "GET /w%C3%A4g%20%22x%22/x HTTP/1.1", "manager.example"),
    ],
)
def test_a_head_says_which_path_at_which_host_is_asked_for(url: str, first: str, host: str) -> None:
    head = Connections(load_settings(url).manager_url, {"User-Agent": "x"})._head("GET", "/x", None)
    assert head == f"{first}\r\nHost: {host}\r\nUser-Agent: x\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("method", "body", "fields"),
    [
        ("GET", None, []),
        ("POST", None, ["Content-Length: 0"]),
        ("DELETE", None, ["Content-Length: 0"]),
        ("POST", b"", ["Content-Type: application/json", "Content-Length: 0"]),
        ("PUT", b"{}", ["Content-Type: application/json", "Content-Length: 2"]),
    ],
)
async def test_a_head_says_how_long_the_body_is(method: str, body: bytes | None, fields: list[str]) -> None:
    async with opened(always(OK)) as (server, connections):
        await connections.ask(method, "/x", body, 10.0)
        assert server.requests[0].fields == [f"Host: {server.url.removeprefix('http://')}", *fields]
        assert server.requests[0].body == (body or b"")


@pytest.mark.parametrize(
    ("user", "key", "authorization"),
    [
        ("", None, []),
        ("taco:secret@", None, ["Authorization: Basic dGFjbzpzZWNyZXQ="]),
        ("taco@", None, ["Authorization: Basic dGFjbzo="]),
        ("t%40co:p%C3%A4%3Ass@", None, ["Authorization: Basic dEBjbzpww6Q6c3M="]),
        ("", "key", ["Authorization: Bearer key"]),
        ("taco:secret@", "key", ["Authorization: Bearer key"]),
    ],
)
async def test_an_api_key_goes_before_the_user_in_the_url(user: str, key: str | None, authorization: list[str]) -> None:
    async with raw_server(always(OK)) as server:
        settings = load_settings(server.url.replace("://", f"://{user}"), key)
        async with Transport(settings, retry_for=0, try_seconds=10) as transport:
            await transport.request("GET", "/x", action="ask")
        request = server.requests[0]
        assert [field for field in request.fields if field.startswith("Authorization")] == authorization
        assert request.fields[0] == f"Host: {server.url.removeprefix('http://')}"


@pytest.mark.parametrize(
    "query",
    [
        {"kind": "add"},
        {"state": ["failed", "expired"], "kind": "a b"},
        {"kind": "a+b&c=d%20#/?\u00e4\u2713\r\nX: y", "n\u00e4me&": "="},
    ],
)
async def test_a_query_arrives_as_it_was_given(query: Query) -> None:
    async with raw_server(always(OK)) as server:
        async with Transport(load_settings(f"{server.url}/under/"), retry_for=0, try_seconds=10) as transport:
            await transport.request("GET", "/x", action="ask", query=query)
        path, _, raw = server.requests[0].target.partition("?")
        assert path == "/under/v1/x"
        lists = {name: [values] if isinstance(values, str) else values for name, values in query.items()}
        assert parse_qs(raw, keep_blank_values=True) == lists


async def test_a_request_without_query_has_no_question_mark() -> None:
    async with raw_server(always(OK)) as server:
        async with Transport(load_settings(server.url), retry_for=0, try_seconds=10) as transport:
            await transport.request("GET", "/x", action="ask", query={})
        assert server.requests[0].target == "/v1/x"


async def test_a_large_body_arrives_whole_while_others_have_their_turns() -> None:
    body = bytes(range(256)) * (5 * MIB // 256)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with opened(always(OK)) as (server, connections):
        counting = asyncio.create_task(count())
        assert await ask(connections, body) == (200, b"ok")
        counting.cancel()
        assert await ask(connections, b"small") == (200, b"ok")
        assert turns >= 20
        assert [request.body for request in server.requests] == [body, b"small"]
        assert len(server.peers) == 1


def stands_still(connections: Connections) -> Callable[[], bool]:
    """A condition: what one of them has to write has not become less for a while."""
    sizes: deque[int] = deque(maxlen=5)

    def condition() -> bool:
        sizes.append(sum(connection._transport.get_write_buffer_size() for connection in connections._open))
        return len(sizes) == 5 and len(set(sizes)) == 1 and sizes[0] > 0

    return condition


@pytest.mark.parametrize("size", [100_000, 300_000, 20 * MIB])
async def test_an_answer_before_the_body_was_read_is_given_though_the_connection_is_closed_then(size: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!")

    async with opened(script) as (server, connections):
        assert [await ask(connections, bytes(size)) for _ in range(2)] == [(413, b"no!")] * 2
        assert len(server.peers) == 2


@pytest.mark.parametrize("answer", [b"no", b""], ids=["with a body", "without one"])
async def test_a_connection_whose_request_was_not_read_is_not_used_again(answer: bytes) -> None:
    stuck = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await stuck.wait()
        await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n" % len(answer), answer)
        await asyncio.Event().wait()

    async with opened(script) as (server, connections):
        for count in range(1, 3):
            asking = asyncio.create_task(ask(connections, bytes(20 * MIB), seconds=5.0))
            await eventually(stands_still(connections))
            stuck.set()
            assert await asking == (413, answer)
            assert len(server.peers) == count
            stuck.clear()


async def test_a_connection_whose_request_was_cancelled_half_sent_is_not_used_again() -> None:
    stuck = asyncio.Event()

    async def script(peer: Peer) -> None:
        if (await peer.head())[1]:
            await stuck.wait()
            await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await asyncio.Event().wait()
        await peer.say(OK)

    async with opened(script) as (server, connections):
        asking = asyncio.create_task(ask(connections, bytes(20 * MIB)))
        await eventually(stands_still(connections))
        stuck.set()
        await eventually(lambda: any(connection._status for connection in connections._open) or asking.done())
        asking.cancel()
        await asyncio.wait([asking])
        assert await ask(connections) == (200, b"ok")
        assert len(server.peers) == 2


@pytest.mark.parametrize(
    "scenario",
    [
        test_a_large_body_arrives_whole_while_others_have_their_turns,
        test_a_connection_whose_request_was_cancelled_half_sent_is_not_used_again,
    ],
)
def test_under_uvloop(scenario: Callable[[], Coroutine[object, object, None]]) -> None:
    under_uvloop(scenario)
