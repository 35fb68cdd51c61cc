"""A server of raw bytes: what it answers, and when it closes, is a script; it keeps what arrived over which connection.

For what a manager never sends, or not on demand: answers in pieces, answers that are cut, answers nobody asked for.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import uvloop

from tacoq_publisher.connections import Connections

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1024 * 1024


class Request(NamedTuple):
    head: str
    body: bytes

    @property
    def target(self) -> str:
        return self.head.split(" ")[1]

    @property
    def fields(self) -> list[str]:
        return self.head.split("\r\n")[1:]


@dataclass(eq=False)
class Peer:
    """One connection, as the server has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[Request] = field(default_factory=list)
    gone: bool = False  # the client has closed it

    async def head(self) -> tuple[str, int]:
        """Take the next request's head; return it, and how long its body is. Raises IncompleteReadError at the end."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()[:-4]
        length = re.search(r"(?m)^Content-Length: (\d+)\r?$", head)
        return head, int(length[1]) if length else 0

    async def request(self) -> Request:
        head, length = await self.head()
        self.requests.append(Request(head, await self.reader.readexactly(length)))
        return self.requests[-1]

    async def say(self, *parts: bytes) -> None:
        """Send each part by itself, as far as the client takes it."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def answer(self, *parts: bytes) -> Request:
        request = await self.request()
        await self.say(*parts)
        return request

    async def until_gone(self) -> None:
        """Return when the client has closed; what it still sent is thrown away."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except OSError:
            pass
        self.gone = True


Script = Callable[[Peer], Coroutine[object, object, None]]


@dataclass(eq=False)
class RawServer:
    """A connection's script ends: it is closed. The client closes it: its script ends, wherever it is."""

    script: Script
    url: str = ""
    peers: list[Peer] = field(default_factory=list)
    closed: int = 0

    @property
    def requests(self) -> list[Request]:
        return [request for peer in self.peers for request in peer.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await self.script(peer)
        except (asyncio.IncompleteReadError, OSError):
            peer.gone = True
        finally:
            self.closed += 1
            writer.close()


def always(*parts: bytes) -> Script:
    """Answer every request with the same."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.answer(*parts)

    return script


def once(*parts: bytes) -> Script:
    """Answer one request, and close the connection."""

    async def script(peer: Peer) -> None:
        await peer.answer(*parts)

    return script


def then_nothing(*parts: bytes) -> Script:
    """Answer one request, and nothing after that."""

    async def script(peer: Peer) -> None:
        await peer.answer(*parts)
        await peer.until_gone()

    return script


@asynccontextmanager
async def raw_server(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    server = RawServer(script)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(server.serve(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        for peer in server.peers:
            peer.writer.transport.abort()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


@asynccontextmanager
async def opened(script: Script) -> AsyncIterator[tuple[RawServer, Connections]]:
    """Give a server, and connections to it, which are closed at the end."""
    async with raw_server(script) as server:
        connections = Connections(server.url, {})
        try:
            yield server, connections
        finally:
            await connections.close()


async def ask(
    connections: Connections, body: bytes | None = None, seconds: float = 10.0, target: str = "/"
) -> tuple[int, bytes]:
    reply = await connections.ask("POST", target, body, seconds)
    return reply.status, reply.body


def under_uvloop(scenario: Callable[[], Coroutine[object, object, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
