"""Events: tasks that ended in; every client that listens for such is told of them, or how many it was not told of.

It is news, and no record: while nobody listens nothing is read, and nothing is kept. What is settled never waits for
who listens: what one reads too slowly it is told as a number.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.store.settle import Applied
from tacoq_protocol.events import LOST, TASK, EndsLost, TaskEnd
from tacoq_protocol.http import TaskView
from tacoq_protocol.states import TaskState

log = logging.getLogger("tacoq.events")

MOST_UNTOLD: Final = 10_000  # events that a client has not read; all that listen share them
MOST_UNREAD: Final = 50_000  # ids that nobody has looked at
READ_AT_ONCE: Final = 1_000
TELL_AT_ONCE: Final = 200
TRIES: Final = 3  # to read: the first may only find that the connection broke
RETRY_SECONDS: Final = 0.5

Ends = Callable[[Sequence[UUID]], Awaitable[list[TaskEnd]]]
"""`store.ends.ends` on a connection."""

_encode = msgspec.json.Encoder().encode


class Wanted(NamedTuple):
    """Which ends a client wants: those that fit all that is given."""

    kinds: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    fairness_keys: frozenset[str] = frozenset()
    states: frozenset[TaskState] = frozenset()

    def fits(self, end: TaskEnd | Applied) -> bool:
        return (
            (not self.kinds or end.kind in self.kinds)
            and (not self.queues or end.queue in self.queues)
            and (not self.fairness_keys or end.fairness_key in self.fairness_keys)
            and (not self.states or end.state in self.states)
        )


class Listener:
    """One client: what it is to be told next."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._untold: deque[bytes] = deque()
        self._lost = 0  # after all of these
        self._countless = False  # and nobody knows how many more
        self._ended = False
        self._news = asyncio.Event()

    @property
    def untold(self) -> int:
        """Events that it has not taken."""
        return len(self._untold)

    def tell(self, event: bytes) -> None:
        """Tell it of an end; where there is no room, count it."""
        if self._has_room:
            self._untold.append(event)
        else:
            self._lost += 1
        self._news.set()

    def lose(self, count: int | None) -> None:
        """Tell it that here it was not told of so many ends; None: nobody knows of how many."""
        if self._has_room:
            self._untold.append(event_of(LOST, EndsLost(count)))
        else:
            self._lost += count or 0
            self._countless |= count is None
        self._news.set()

    @property
    def _has_room(self) -> bool:
        return not (self._lost or self._countless) and len(self._untold) < MOST_UNTOLD

    def end(self) -> None:
        """Have it wait for nothing any more."""
        self._ended = True
        self._news.set()

    async def take(self, seconds: float) -> bytes:
        """Return what comes next, some events together, as soon as there is one; b"" after `seconds` or at the end."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return b""
        taken = [self._untold.popleft() for _ in range(min(len(self._untold), TELL_AT_ONCE))]
        if not self._untold:
            if self._lost or self._countless:
                taken.append(event_of(LOST, EndsLost(None if self._countless else self._lost)))
                self._lost, self._countless = 0, False
            if not self._ended:
                self._news.clear()
        return b"".join(taken)


class Events:
    """Everybody who listens here, and one reader for all of them, at work while there is something to read."""

    def __init__(self, ends: Ends, begin: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """`begin` has a coroutine run beside all else."""
        self._ends = ends
        self._begin = begin
        self._listeners: list[Listener] = []
        self._unread: deque[UUID] = deque()
        self._reading = False
        self.released = asyncio.Event()

    @property
    def listening(self) -> int:
        """How many listen."""
        return len(self._listeners)

    @contextmanager
    def listener(self, wanted: Wanted) -> Iterator[Listener]:
        """Listen until the block ends, from now on."""
        listener = Listener(wanted)
        if self.released.is_set():
            listener.end()
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)
            if not self._listeners:
                self._unread.clear()

    def settled(self, applied: Sequence[Applied]) -> None:
        """These moves are committed. What nobody wants is not looked at again, nor what is at hand."""
        if not self._listeners:
            return
        unread = []
        for move in applied:
            if move.state.final and any(listener.wanted.fits(move) for listener in self._listeners):
                if move.view is None:
                    unread.append(move.transition.task_id)
                else:
                    self._tell(_end_of(move.view))
        self._look_at(unread)

    def heard(self, ids: Sequence[UUID]) -> None:
        """Another manager says that these have ended."""
        if self._listeners:
            self._look_at(ids)

    def missed(self) -> None:
        """What other managers said may have been lost."""
        self._lose(None)

    def release(self) -> None:
        """Let every stream end once it has told what it has, and those to come at once: the manager is stopping."""
        self.released.set()
        for listener in self._listeners:
            listener.end()

    def _look_at(self, ids: Sequence[UUID]) -> None:
        room = MOST_UNREAD - len(self._unread)
        self._unread.extend(ids[:room])
        if len(ids) > room:
            self._lose(len(ids) - room)
        if self._unread and not self._reading:
            self._reading = True
            self._begin(self._read())

    async def _read(self) -> None:
        """Read until nothing is left: what comes meanwhile is read together."""
        try:
            while self._unread:
                ids = [self._unread.popleft() for _ in range(min(len(self._unread), READ_AT_ONCE))]
                ends = await self._read_some(ids)
                if ends is None:
                    self._lose(len(ids))
                else:
                    for end in ends:
                        self._tell(end)
        finally:
            self._reading = False

    async def _read_some(self, ids: Sequence[UUID]) -> list[TaskEnd] | None:
        """What has become of these; None when that cannot be read."""
        for attempt in range(1, TRIES + 1):
            try:
                return await self._ends(ids)
            except DatabaseUnavailable as error:
                log.warning("ends could not be read", extra={"tasks": len(ids), "try": attempt, "error": str(error)})
            except Exception:
                log.exception("ends could not be read", extra={"tasks": len(ids)})
                return None
            if attempt == TRIES or not self._listeners:
                break
            await asyncio.sleep(RETRY_SECONDS)
        return None

    def _tell(self, end: TaskEnd) -> None:
        event = b""
        for listener in self._listeners:
            if listener.wanted.fits(end):
                event = event or event_of(TASK, end, id=end.id)
                listener.tell(event)

    def _lose(self, count: int | None) -> None:
        for listener in self._listeners:
            listener.lose(count)


def event_of(name: str, data: object, *, id: UUID | None = None) -> bytes:
    """Return a server-sent event."""
    line = b"" if id is None else b"id: %b\n" % str(id).encode()
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), line, _encode(data))


def _end_of(view: TaskView) -> TaskEnd:
    return TaskEnd(
        id=view.id,
        kind=view.kind,
        queue=view.queue,
        fairness_key=view.fairness_key,
        priority=view.priority,
        state=view.state,
        attempt=view.attempt,
        created_at=view.created_at,
        started_at=view.started_at,
        finished_at=view.finished_at,
        error_type=None if view.error is None else view.error.type,
    )
