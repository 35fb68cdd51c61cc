"""A condition in; its first true value, or an AssertionError with the last one seen, out."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Coroutine[Any, Any, T]], timeout: float = 10.0, *, interval: float = 0.02, what: str = ""
) -> T: ...


@overload
async def eventually(
    condition: Callable[[], T], timeout: float = 10.0, *, interval: float = 0.02, what: str = ""
) -> T: ...


async def eventually(
    condition: Callable[[], Any], timeout: float = 10.0, *, interval: float = 0.02, what: str = ""
) -> Any:
    """Ask `condition`, plain or async, until it answers something true; return that answer.

    An AssertionError that it raises counts as not yet true; any other exception passes.
    """
    deadline = time.monotonic() + timeout
    seen: object
    while True:
        try:
            answer = condition()
            value = await answer if inspect.isawaitable(answer) else answer
        except AssertionError as error:
            seen = error
        else:
            if value:
                return value
            seen = value
        if time.monotonic() > deadline:
            name = what or getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"not so within {timeout:g} s: {name}; last: {seen!r}")
        await asyncio.sleep(interval)


async def others_ran() -> None:
    """Return when everything that was ready to run at this call has run."""
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    await ran.wait()
