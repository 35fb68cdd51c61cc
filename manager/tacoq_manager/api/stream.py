"""The wait stream: ids in, a line of JSON for each as it becomes final out, until the timeout or the client's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tacoq_manager.api.bodies import encode_lines
from tacoq_manager.api.within import disconnected
from tacoq_manager.notify import Told
from tacoq_manager.store.engine import DatabaseUnavailable

KEEP_ALIVE_SECONDS: Final = 10.0  # an empty line, so that nobody between takes the stream for dead
FIRST_SECONDS: Final = 5.0  # for the first look, whose fault can still be a status
_HEADERS: Final = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]


class WaitStream(Response):
    """Sends what `told` yields. When the first look fails its error goes to the exception handlers instead."""

    def __init__(self, told: AsyncGenerator[list[Told], None]) -> None:
        self.status_code = 200
        self.background = None
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(disconnected(receive))
        following = self._next()
        try:
            await asyncio.wait((gone, following), timeout=FIRST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            while True:
                await asyncio.wait((gone, following), timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
                if not following.done():
                    await send(_chunk(b"\n"))
                    continue
                try:
                    batch = following.result()
                except DatabaseUnavailable:  # the client sees the stream end early, and asks again
                    break
                if batch is None:
                    break
                if batch:
                    await send(_chunk(encode_lines(batch)))
                following = self._next()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            following.cancel()
            with suppress(asyncio.CancelledError, DatabaseUnavailable):
                await following  # a generator at work cannot be closed
            await self._told.aclose()

    def _next(self) -> asyncio.Future[list[Told] | None]:
        return asyncio.ensure_future(anext(self._told, None))


def _chunk(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
