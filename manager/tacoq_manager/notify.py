"""Notify: ids that became final in, views to everybody who waits for them out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Iterable, Sequence
from itertools import islice
from typing import Final
from uuid import UUID

from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_protocol.http import TaskView, UnknownTask

log = logging.getLogger("tacoq.notify")

READ_AT_ONCE: Final = 1_000
REREAD_SECONDS: Final = 2.0  # news may get lost: an answer is then late by this, and no more
RETRY_SECONDS: Final = 0.5

Told = TaskView | UnknownTask
Ended = Callable[[Sequence[UUID]], Awaitable[tuple[list[TaskView], set[UUID]]]]
"""`store.tasks.ended` on a database: the final ones of these ids, and the ids of the live ones."""


class _Waiter:
    """One request that waits."""

    def __init__(self, ids: Iterable[UUID], live: Container[UUID]) -> None:
        self.missing = dict.fromkeys(ids)  # not told yet
        self.unread = {id for id in self.missing if id not in live}  # nobody has looked at them yet
        self.ready: list[Told] = []
        self.fault: DatabaseUnavailable | None = None
        self.wake = asyncio.Event()


class Waiters:
    """Everybody who waits for tasks here. One reader reads for all of them, a set of ids at a time."""

    def __init__(self, ended: Ended, on_wait: Callable[[], None] = lambda: None) -> None:
        """`on_wait`: somebody begins to wait."""
        self._ended = ended
        self._on_wait = on_wait
        self._waiting: dict[UUID, list[_Waiter]] = {}
        # Accepted here since the last reread, and not known to have ended: most waits begin right after, and need not
        # look. It is forgotten with each reread, for the news of an end may get lost.
        self._live: set[UUID] = set()
        # To be read: became final, just waited for, perhaps missed. In this order, each without doubles.
        self._woken: dict[UUID, None] = {}
        self._fresh: dict[UUID, None] = {}
        self._again: dict[UUID, None] = {}
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.released = False

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._read_forever(), name="tacoq notify"),
            asyncio.create_task(self._reread_forever(), name="tacoq notify again"),
        ]

    @property
    def loops(self) -> Sequence[asyncio.Task[None]]:
        """What runs from `start` to `stop`, for ever."""
        return self._tasks

    async def stop(self) -> None:
        """Stop reading. Whoever still waits is told nothing more, and ends at its own timeout."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def wait(self, ids: Iterable[UUID], timeout: float) -> AsyncGenerator[list[Told], None]:
        """Yield tasks as they become final, and ids that no task has, until all are told or after `timeout` s.

        Those final at the call are told even with a timeout of 0; an empty list says that none was. Raises
        DatabaseUnavailable when the first look fails; a later failure costs only time. Close the iterator
        (`aclosing`) to stop waiting.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        waiter = _Waiter(ids, self._live if timeout > 0 else ())  # without time only a look can tell
        looked = False
        self._join(waiter)  # before the first look: what ends in between wakes us
        try:
            while True:
                if waiter.ready:
                    batch, waiter.ready = waiter.ready, []
                    looked = True
                    yield batch
                elif waiter.fault is not None:
                    raise waiter.fault
                elif not waiter.missing or self.released:
                    return
                elif not waiter.unread and not looked:
                    looked = True
                    yield []
                else:
                    waiter.wake.clear()
                    async with asyncio.timeout_at(None if waiter.unread else deadline):
                        await waiter.wake.wait()
        except TimeoutError:
            return
        finally:
            self._leave(waiter)

    def accepted(self, ids: Iterable[UUID]) -> None:
        """These are live now, and whoever ends them tells of it."""
        self._live.update(ids)

    def waits_for(self, id: UUID) -> bool:
        """True when somebody does now: who settles the task may tell of it without a look."""
        return id in self._waiting

    def settled(self, ids: Iterable[UUID], views: Sequence[TaskView] = ()) -> None:
        """These tasks are final, and that is committed; `views` are of those that need not be read again."""
        for view in views:
            self._tell(view.id, view)
        for id in ids:
            self._live.discard(id)
            if id in self._waiting:
                self._woken[id] = None
        if self._woken:
            self._work.set()

    def release(self) -> None:
        """Let every wait end now, and those to come at once: the manager is stopping."""
        self.released = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.wake.set()

    def reread(self) -> int:
        """Look again at all that is waited for. Returns how many that are."""
        self._live.clear()
        self._again.update(dict.fromkeys(self._waiting))
        if self._again:
            self._work.set()
        return len(self._again)

    @property
    def waiting(self) -> int:
        """Tasks that somebody waits for."""
        return len(self._waiting)

    def _join(self, waiter: _Waiter) -> None:
        for id in waiter.missing:
            self._waiting.setdefault(id, []).append(waiter)
        if waiter.unread:
            self._fresh.update(dict.fromkeys(id for id in waiter.missing if id in waiter.unread))
            self._work.set()
        self._on_wait()

    def _leave(self, waiter: _Waiter) -> None:
        for id in waiter.missing:
            others = self._waiting[id]
            others.remove(waiter)
            if not others:
                del self._waiting[id]

    async def _reread_forever(self) -> None:
        while True:
            await asyncio.sleep(REREAD_SECONDS)
            self.reread()

    async def _read_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while ids := self._next_round():
                try:
                    final, live = await self._ended(ids)
                    self._told(ids, final, live)
                except DatabaseUnavailable as fault:
                    self._failed(ids, fault)
                    await asyncio.sleep(RETRY_SECONDS)
                except Exception:
                    log.exception("waiting tasks could not be read", extra={"tasks": len(ids)})
                    self._failed(ids, DatabaseUnavailable("the tasks could not be read"))
                    await asyncio.sleep(RETRY_SECONDS)

    def _next_round(self) -> list[UUID]:
        """Take what has arrived so far, up to a size, but for what nobody waits for any more."""
        ids: dict[UUID, None] = {}
        while not ids and (self._woken or self._fresh or self._again):
            for source in (self._woken, self._fresh, self._again):
                for id in list(islice(source, READ_AT_ONCE - len(ids))):
                    del source[id]
                    if id in self._waiting:
                        ids[id] = None
        return list(ids)

    def _told(self, ids: list[UUID], final: list[TaskView], live: set[UUID]) -> None:
        answers: dict[UUID, Told] = {view.id: view for view in final}
        for id in ids:
            waiters = self._waiting.get(id, ())
            if id in live:
                for waiter in waiters:
                    waiter.unread.discard(id)
                    if not waiter.unread:
                        waiter.wake.set()  # from now on its deadline counts
                continue
            self._tell(id, answers.get(id) or UnknownTask(id))

    def _tell(self, id: UUID, answer: Told) -> None:
        for waiter in self._waiting.pop(id, ()):
            del waiter.missing[id]
            waiter.unread.discard(id)
            waiter.ready.append(answer)
            waiter.wake.set()

    def _failed(self, ids: list[UUID], fault: DatabaseUnavailable) -> None:
        """Who was never told anything hears of it at once; for the others there is the next look."""
        for id in ids:
            for waiter in self._waiting.get(id, ()):
                if id in waiter.unread:
                    waiter.fault = fault
                    waiter.wake.set()
