"""A TCP proxy on the test's own loop: the faults of a network in, in front of a server that stays well."""

from __future__ import annotations

import asyncio


class Proxy:
    """Forwards to one address. It can drop connections, refuse new ones, and fall silent with all of them open."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        self.accepted = 0

    async def start(self) -> None:
        """Listen, on the same port each time."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def drop(self) -> None:
        """Reset all connections."""
        for writer in self._open:
            writer.transport.abort()

    async def refuse(self) -> None:
        """Reset all connections and take no new ones, until `start`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.drop()

    def freeze(self) -> None:
        """Forward nothing more, in either direction, and close nothing: a half-open link for both ends."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

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
        self._pump(reader, back)
        self._pump(there, writer)

    def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
            await self._flowing.wait()
        except ConnectionError:
            pass  # either end was reset: so is the other, below
        finally:
            self._open.discard(writer)
            writer.close()
