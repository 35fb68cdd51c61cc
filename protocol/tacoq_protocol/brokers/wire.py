"""Wire: the socket under a connection of aiormq; the frames of the hot flows pass aiormq by, both ways.

aiormq connects, opens channels, declares, consumes, beats and closes: it hears all frames but those of a channel that
was taken here, as far as they are messages or confirms. These are read where the bytes arrive, so that a message
reaches its handler in that very turn of the loop, and is written in one go: by aiormq's queues and tasks a hop
takes half a dozen turns.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final, Protocol, cast

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from tacoq_protocol.brokers import frames

ALIVE_SECONDS: Final = 1.0
_HEAD: Final = 7


class Sink(Protocol):
    """What hears a taken channel. Called within the loop's reading: nothing may raise."""

    def method(self, id: int, method: bytes) -> bool:
        """A method of the channel; False when it is for aiormq."""

    def header(self, header: bytes) -> bool: ...

    def body(self, body: bytes) -> bool: ...

    def closed(self) -> None:
        """The broker has closed the channel: nothing more may be written to it. Idempotent."""


class Wire(asyncio.Protocol):
    """Stands between a transport and aiormq's reader."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._inner = cast("asyncio.Protocol", transport.get_protocol())
        self._sinks: dict[int, Sink] = {}
        self._rest = b""
        self._strange = False  # what comes is no AMQP: aiormq says so
        self._alive = 0.0
        self._room = asyncio.Event()
        self._room.set()
        transport.set_protocol(self)

    def take(self, channel: int, sink: Sink) -> None:
        self._sinks[channel] = sink

    def leave(self, channel: int, sink: Sink) -> None:
        """Idempotent; a channel of the same number that came after stays."""
        if self._sinks.get(channel) is sink:
            del self._sinks[channel]

    def write(self, data: bytes) -> None:
        """Write whole frames. Raises ConnectionError when the connection is gone."""
        if self.transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        self.transport.write(data)

    @property
    def full(self) -> bool:
        """True while what was written before does not go out."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Return when it is not full, or the connection is gone."""
        await self._room.wait()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end, foreign = 0, len(data), 0  # `foreign`: where what aiormq has to hear begins
        while at + _HEAD <= end:
            kind, channel, size = frames.FRAME.unpack_from(data, at)
            self._strange = self._strange or kind not in frames.KINDS
            after = at + _HEAD + size + 1
            if self._strange or after > end:
                break
            sink = self._sinks.get(channel)
            if sink is not None and _heard(sink, kind, data[at + _HEAD : after - 1]):
                self._pass(data[foreign:at])
                foreign = after
            at = after
        at = end if self._strange else at
        self._pass(data[foreign:at])
        self._rest = data[at:]
        if foreign and monotonic() - self._alive > ALIVE_SECONDS:
            # Who hears nothing takes the broker for dead; and that sends no beats while it sends other frames.
            self._pass(frames.HEARTBEAT)

    def _pass(self, data: bytes) -> None:
        if data:
            self._alive = monotonic()
            self._inner.data_received(data)

    def pause_writing(self) -> None:
        self._room.clear()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._room.set()
        self._inner.resume_writing()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        for sink in list(self._sinks.values()):
            sink.closed()
        self._sinks.clear()
        self._room.set()
        self._inner.connection_lost(error)


class WireFactory(TransportFactory):
    """Connects as aiormq does. `wire` is there once it is connected."""

    def __init__(self) -> None:
        self.wire: Wire | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self.wire = Wire(cast("asyncio.Transport", writer.transport))
        return reader, writer


def _heard(sink: Sink, kind: int, content: bytes) -> bool:
    match kind:
        case frames.METHOD:
            (id,) = frames.METHOD_ID.unpack_from(content)
            if id in (frames.CLOSE, frames.CLOSE_OK):
                sink.closed()
                return False
            return sink.method(id, content)
        case frames.HEADER:
            return sink.header(content)
        case frames.BODY:
            return sink.body(content)
        case _:
            return False
