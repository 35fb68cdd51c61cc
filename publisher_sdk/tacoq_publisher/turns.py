"""Turns: publishes that are called all at once in; so many of them in each turn of the event loop, in order, out.

Thousands that are prepared in one turn keep the loop from sending the first of them, and from hearing what became of
those: the manager waits for the publisher, then the publisher for the manager. They also are so many objects at a
time that the garbage collector takes as long as all the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from tacoq_protocol.errors import TacoqError
from tacoq_publisher.errors import own_copy

IN_A_TURN: Final = 100  # about 2 ms of work


class Turns:
    """Belongs to one event loop. Those that come a few at a time pass without a wait."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = IN_A_TURN
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> asyncio.Future[None] | None:
        """Take a place in this turn; where there is none, return what is to be awaited until there is one."""
        if self._left:
            if self._left == IN_A_TURN:
                self._loop.call_soon(self._next_turn)
            self._left -= 1
            return None
        called: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(called)
        return called

    async def drain(self) -> None:
        """Return when nobody waits for a turn any more, and all have had theirs."""
        while self._waiting:
            await asyncio.wait([self._waiting[-1]])
        await asyncio.sleep(0)  # who was called last is on the way

    def close(self, error: TacoqError) -> None:
        """Whoever still waits gets `error`."""
        while self._waiting:
            called = self._waiting.popleft()
            if not called.done():
                called.set_exception(own_copy(error))

    def _next_turn(self) -> None:
        """Call those whose turn it is. Who comes while they are on their way is behind them."""
        called = 0
        while called < IN_A_TURN and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():  # else its publish() was cancelled
                waiting.set_result(None)
                called += 1
        self._left = 0 if called else IN_A_TURN
        if called:
            self._loop.call_soon(self._next_turn)
