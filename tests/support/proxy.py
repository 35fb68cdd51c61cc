"""A TCP proxy on the test's own loop: the faults of a network in, in front of a server that stays well."""

from __future__ import annotations

import asyncio
import socket
import struct

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, and what was not sent is gone


class Proxy:
    """Forwards to one address. It can reset connections, refuse new ones, fall silent in each direction, and be slow.

    It needs the test's loop: what blocks that is a fault, too.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._requests = asyncio.Event()
        self._replies = asyncio.Event()
        self.thaw()
        self.delay = 0.0
        self.port = 0
        self.accepted = 0
        self.held = 0  # reads that wait to be forwarded

    async def start(self) -> None:
        """Listen, on the same port each time."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def drop(self) -> None:
        """Close all connections at once; what is under way in them is lost."""
        for writer in self._open:
            writer.transport.abort()

    def reset(self) -> None:
        """The same by RST, as a router does that has forgotten them."""
        for writer in self._open:
            known: socket.socket | None = writer.get_extra_info("socket")
            if known is not None and not writer.transport.is_closing():
                known.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.drop()

    async def refuse(self) -> None:
        """Close all connections and take no new ones, until `start`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.drop()

    def freeze(self, *, requests: bool = True, replies: bool = True) -> None:
        """Forward nothing more and close nothing: a half-open link.

        `replies` alone: the server gets what it is asked and does it, and nobody hears of it. What is held back
        arrives after `thaw`, and never after `drop` or `reset`.
        """
        if requests:
            self._requests.clear()
        if replies:
            self._replies.clear()

    def thaw(self) -> None:
        self._requests.set()
        self._replies.set()

    def slow(self, seconds: float) -> None:
        """Hold each piece of data so long before it is forwarded, in both directions; 0 ends it."""
        self.delay = seconds

    async def close(self) -> None:
        await self.refuse()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._open.add(writer)
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(back)
        if writer.is_closing():  # dropped in the meantime
            back.transport.abort()
        self._pump(reader, back, self._requests)
        self._pump(there, writer, self._replies)

    def _asked(self, client: object, data: bytes) -> None:
        """A client sent this. For those that look at it."""

    def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        task = asyncio.create_task(self._forward(reader, writer, flowing))
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(65536):
                if flowing is self._requests:
                    self._asked(reader, data)
                if self.delay:
                    await asyncio.sleep(self.delay)
                self.held += 1
                await flowing.wait()
                self.held -= 1
                if writer.is_closing():
                    return
                writer.write(data)
                await writer.drain()
            await flowing.wait()
        except ConnectionError:
            pass  # either end was reset: so is the other, below
        finally:
            self._open.discard(writer)
            writer.close()
