"""Transport: requests in, answers out; away, busy and broken managers are tried again until a deadline.

It knows statuses that mean "not now" (5xx, 429) and nothing about tasks: any other answer is handed back for
`manager.py` to read. A request is sent again with the same bytes, so its caller must have made it safe to arrive
twice, or say `resend=False`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from tacoq_protocol.errors import ManagerUnavailable
from tacoq_publisher.connections import Connections, noticing
from tacoq_publisher.errors import PublisherClosed, read_problem, shown
from tacoq_publisher.http1 import Connection, Fault, Reply
from tacoq_publisher.settings import PublisherSettings

log = logging.getLogger("tacoq.publisher")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0

Query = Mapping[str, str | list[str]]


class Answer(NamedTuple):
    """A status below 500 (not 429) and the whole body."""

    status: int
    body: bytes


class Backoff:
    """Pauses between tries: 50 ms, doubling up to 2 s, drawn from the upper half; not less than asked for."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._next = _FIRST_PAUSE

    def pause(self, asked: float | None = None) -> float:
        pause = self._next * (0.5 + 0.5 * self._draw())
        self._next = min(2 * self._next, _LONGEST_PAUSE)
        return max(pause, asked or 0.0)


class Transport:
    """One manager, one event loop, pooled connections.

    Seconds: `retry_for` from the start of a request, `try_seconds` for a try.
    """

    def __init__(self, settings: PublisherSettings, *, retry_for: float, try_seconds: float) -> None:
        parts = urlsplit(settings.manager_url)
        self.url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # as it is told: without a password
        self.retry_for = retry_for
        self.try_seconds = try_seconds
        headers = {"User-Agent": "tacoq-publisher"}
        if settings.api_key:
            headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
        self._connections = Connections(settings.manager_url, headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._connections.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        action: str,
        body: bytes | None = None,
        query: Query | None = None,
        longer: float = 0.0,
        resend: bool = True,
    ) -> Answer:
        """Send until there is an answer; `action` names it in errors.

        A try may take `longer` seconds more than usual.

        Raises ManagerUnavailable when there is none `retry_for` seconds after the start (a try under way is
        let end), or, with `resend=False`, after the first fault in which the manager may have seen the
        request.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.retry_for
        backoff = Backoff()
        sent = told = False
        while True:
            try:
                return await self._try(method, path, body, query, self.try_seconds + longer)
            except Fault as fault:
                sent = sent or fault.sent
                left = deadline - clock()
                if left <= 0 or (fault.sent and not resend):
                    outcome = "it may have been done nevertheless" if sent else "nothing was sent"
                    raise self.unavailable(action, fault, outcome=outcome) from None
                level, told = (logging.DEBUG if told else logging.WARNING), True
                pause = min(backoff.pause(fault.pause), left)
                log.log(
                    level,
                    "manager not available, trying again",
                    extra={"url": self.url, "action": action, "fault": str(fault), "pause": round(pause, 3)},
                )
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def stream(
        self, path: str, body: bytes | None, *, silence: float, query: Query | None = None
    ) -> AsyncIterator[Answer | AsyncIterator[bytes]]:
        """Post `body`, once, or get, and give the lines of a 200 as they arrive, many together, or any other answer.

        Raises Fault, also from the iterator: the connection broke, or nothing came for `silence` seconds.
        """
        self._see_that_it_is_open()
        method = "GET" if body is None else "POST"
        async with self._connections.stream(method, _target(path, query), body, silence) as connection:
            async with noticing(silence):
                status = await connection.head()
            if status == 200:
                yield _lines(connection, silence)
            else:
                async with noticing(silence):
                    reply = await connection.reply()
                yield _answer(reply)

    def unavailable(self, action: str, fault: Fault, *, outcome: str) -> ManagerUnavailable:
        """Return the error for `action` given up after `fault`, the last one; `outcome` is what became of it."""
        tried = f", tried for {self.retry_for:g} s" if self.retry_for else ""
        return ManagerUnavailable(
            f"the manager at {self.url} was not available to {action}{tried}: {fault}; {outcome}: "
            "see that it runs, or set TACOQ_MANAGER_URL (or url=) to where it does",
            status=fault.status,
        )

    async def _try(self, method: str, path: str, body: bytes | None, query: Query | None, seconds: float) -> Answer:
        self._see_that_it_is_open()
        return _answer(await self._connections.ask(method, _target(path, query), body, seconds))

    def _see_that_it_is_open(self) -> None:
        if self._connections.closed:
            raise PublisherClosed("the Publisher that this belongs to was closed")


def _target(path: str, query: Query | None) -> str:
    return f"/v1{path}?{urlencode(query, doseq=True)}" if query else f"/v1{path}"


def _answer(reply: Reply) -> Answer:
    status, body, after = reply
    if status < 500 and status != 429:
        return Answer(status, body)
    problem = read_problem(body)
    raise Fault(
        f"it answered {status} ({problem.detail if problem else shown(body)})",
        sent=status != 429,
        status=status,
        pause=float(after) if after.isascii() and after.isdecimal() else None,
    )


async def _lines(connection: Connection, silence: float) -> AsyncIterator[bytes]:
    """Give complete lines, all that are there; a line may be of many chunks."""
    begun: list[bytes] = []
    while True:
        async with noticing(silence):
            chunk = await connection.chunk()
        if not chunk:
            break
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join((*begun, chunk[:end]))
            begun.clear()
        begun.append(chunk[end:])
    if b"".join(begun).strip():
        raise Fault("the stream was cut in the middle of a line", sent=True)
