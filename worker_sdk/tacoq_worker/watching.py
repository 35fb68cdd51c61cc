"""Watching: changes of Python files below the current folder in; one reaction at a time, to the newest, out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from watchfiles import PythonFilter, awatch

log = logging.getLogger("tacoq.reload")

AGAIN_SECONDS: Final = 1.0


async def react_to_changes(react: Callable[[Sequence[str]], Awaitable[bool]]) -> None:
    """Call `react` with the files of each change, until it answers True.

    What changes while it is at work cancels it, and it begins anew: it imports code, and that may hang.
    """
    while True:
        try:
            return await _watch(react)
        except Exception:
            log.exception("files cannot be watched now; changes since are seen with the next one")
        await asyncio.sleep(AGAIN_SECONDS)


async def _watch(react: Callable[[Sequence[str]], Awaitable[bool]]) -> None:
    folder = Path.cwd()
    reaction: asyncio.Future[bool] | None = None
    async with aclosing(awatch(folder, watch_filter=PythonFilter(), debounce=400, step=50)) as changes:
        change = asyncio.ensure_future(anext(changes))
        try:
            while True:
                awaited: list[asyncio.Future[Any]] = [change] if reaction is None else [change, reaction]
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if reaction is not None and reaction.done():
                    if reaction.result():
                        return
                    reaction = None
                if change.done():
                    files = sorted(str(Path(path).relative_to(folder)) for _, path in change.result())
                    await _cancel(reaction)
                    reaction = asyncio.ensure_future(react(files))
                    change = asyncio.ensure_future(anext(changes))
        finally:
            await _cancel(change)
            await _cancel(reaction)


async def _cancel(work: asyncio.Future[Any] | None) -> None:
    if work is not None:
        work.cancel()
        await asyncio.wait([work])
