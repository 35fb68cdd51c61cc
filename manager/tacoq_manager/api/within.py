"""Within a request: the manager it is for, and whether its client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from starlette.requests import Request
from starlette.types import Receive

from tacoq_manager.manager import Manager

T = TypeVar("T")

ABORT: Final = "abort"  # in the state of a request: what ends its connection at once


def manager_of(request: Request) -> Manager:
    """Return the manager that the app was made for."""
    return cast("Manager", request.app.state.manager)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns, or None when the client goes away before: `work` is then cancelled."""
    gone = asyncio.ensure_future(disconnected(request.receive))
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((gone, working), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (gone, working):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
