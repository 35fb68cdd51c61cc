"""HTTP/1.1: one connection's requests in, one at a time, and their answers out, as they arrive.

httptools parses. The loop's transport writes, and does TLS.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Final, NamedTuple, cast

import httptools

_SLICE_BYTES: Final = 256 * 1024
_MOST_UNREAD_BYTES: Final = 1024 * 1024
_KEPT_FOR: Final = re.compile(rb"timeout *= *(\d{1,9})", re.IGNORECASE)  # of Keep-Alive, RFC 2068, 19.7.1.1
_HAS_AN_END: Final = frozenset({b"content-length", b"transfer-encoding"})


class Fault(Exception):
    """One try that came to nothing. `sent`: the manager may have done what was asked.

    `pause`: it asked for that many seconds.
    """

    def __init__(self, reason: str, *, sent: bool, status: int | None = None, pause: float | None = None) -> None:
        super().__init__(reason)
        self.sent = sent
        self.status = status
        self.pause = pause


class Reply(NamedTuple):
    """A whole answer. `retry_after`: that header as it was sent."""

    status: int
    body: bytes
    retry_after: str


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self.idle_since = 0.0
        self.kept_for = math.inf  # seconds after which the other side may close it, where it says so
        self._status = 0  # of the answer under way, once its head is there
        self._retry_after = ""
        self._on_lost = on_lost
        self._transport = cast("asyncio.Transport", None)  # until it is made
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._news: asyncio.Future[None] | None = None
        self._room = asyncio.Event()  # in the transport, for more of a request
        self._room.set()
        self._chunks: list[bytes] = []
        self._unread = 0  # bytes of these
        self._paused = False  # until they are read
        self._has_end = False  # else the answer ends with the connection
        self._ended = True  # nothing is asked
        self._keeps = False
        self._sent = False  # to its end
        self._left = False  # by the other side
        self._broken: Fault | None = None

    async def send(self, head: bytes, body: bytes) -> None:
        """Write a request; what is read from now on is its answer. A large body leaves in parts: others have turns."""
        self._status, self._retry_after = 0, ""
        self._has_end = self._ended = self._keeps = self._sent = False
        if len(body) <= _SLICE_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            for start in range(0, len(body), _SLICE_BYTES):
                if self._ended or self._broken:  # it has its answer: nobody reads what is left of it
                    return
                self._transport.write(body[start : start + _SLICE_BYTES])
                await asyncio.sleep(0)
                await self._room.wait()
        self._sent = True

    async def head(self) -> int:
        """Return the status as soon as it is there. Raises Fault."""
        while not self._status:
            await self._more()
        return self._status

    async def chunk(self) -> bytes:
        """Return what of the body came since the last call, as soon as there is something; b"" at its end.

        Raises Fault when it breaks off.
        """
        while not self._chunks:
            if self._ended:
                return b""
            await self._more()
        chunks, self._chunks, self._unread = self._chunks, [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def reply(self) -> Reply:
        """Return the whole answer. Raises Fault."""
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return Reply(self._status, b"".join(chunks), self._retry_after)

    @property
    def can_be_kept(self) -> bool:
        """True when its request was sent and its answer was read, to their ends, and another request may follow."""
        return (
            self._ended
            and self._keeps
            and self._sent
            and not self._chunks
            and not self.is_closing
            and not self._transport.get_write_buffer_size()
        )

    @property
    def is_closing(self) -> bool:
        return self._left or self._transport.is_closing()

    def close(self) -> None:
        """Close it at once, whatever is under way."""
        self._break("it was closed")
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._broken is not None:
            raise self._broken
        self._news = self._loop.create_future()
        await self._news

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _break(self, reason: object) -> None:
        if not self._ended and self._broken is None:
            self._broken = Fault(f"the connection broke ({reason})", sent=True)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not of this class

    def data_received(self, data: bytes) -> None:
        if self._ended:  # nobody asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken = Fault(f"what it answers is not HTTP ({error})", sent=True)
            self.close()
        if self._unread > _MOST_UNREAD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._tell()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def eof_received(self) -> None:
        # TLS tells of its end some turns later: no request may be sent meanwhile.
        self._left = True
        if self._status and not self._has_end and self._broken is None:
            self._ended = True
        self._break("it was closed")
        self._room.set()
        self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        self._break(error or "it was closed")
        self._room.set()
        self._tell()
        self._on_lost(self)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._ended:
            raise httptools.HttpParserError("more than was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _HAS_AN_END:
            self._has_end = True
        elif name == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif name == b"keep-alive" and (said := _KEPT_FOR.search(value)):
            self.kept_for = float(said[1])

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200:  # another head follows
            self._status, self._retry_after, self._has_end = 0, "", False

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._unread += len(body)

    def on_message_complete(self) -> None:
        if self._status:
            self._ended, self._keeps = True, self._parser.should_keep_alive()
            self._room.set()  # nobody may read the rest of the request
