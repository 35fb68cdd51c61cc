"""Waiting: ids that somebody awaits in, their final views out, pushed over streams that all share.

Ids that come while a stream is being opened (for 10 ms at most: a manager may keep its first bytes until it has news)
go into the next one, so a lone wait costs one request, and 10,000 at once cost one as well. An open stream takes no
further ids: newcomers get one of their own, and where that would be too many, it takes over the ids of the smallest.
Streams end after `STREAM_SECONDS`, or break; the ids left over are asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final, Protocol
from uuid import UUID

from tacoq_protocol.errors import TacoqError
from tacoq_protocol.http import MAX_WAIT_TASKS, TaskView
from tacoq_publisher.errors import own_copy
from tacoq_publisher.http1 import Fault
from tacoq_publisher.manager import Manager, WaitLine
from tacoq_publisher.transport import Backoff, Transport

log = logging.getLogger("tacoq.publisher")

STREAM_SECONDS: Final = 30.0  # a connection that died in silence is noticed 10 s after this
MAX_STREAMS: Final = 4
GATHER_SECONDS: Final = 0.01  # between two openings, at most
_GOES_ON: Final = "the tasks go on, wait again with the same handles"


class Watcher(Protocol):
    """Who awaits tasks. For each of them one of these is called, once, or none after `unwatch`; neither may raise."""

    def told(self, line: WaitLine) -> None: ...
    def failed(self, error: Exception) -> None: ...


class _Lone:
    """Awaits one task."""

    __slots__ = ("line",)

    def __init__(self, line: asyncio.Future[WaitLine]) -> None:
        self.line = line

    def told(self, line: WaitLine) -> None:
        if not self.line.done():
            self.line.set_result(line)

    def failed(self, error: Exception) -> None:
        if not self.line.done():
            self.line.set_exception(error)


class _Stream:
    """One request: the ids it has not told of yet, and the task that reads it."""

    __slots__ = ("ids", "opened", "reader")

    def __init__(self, ids: dict[UUID, None]) -> None:
        self.ids = ids
        self.opened = asyncio.Event()  # or failed
        self.reader: asyncio.Task[None] | None = None


class Waits:
    """Belongs to one event loop.

    Waits fail with ManagerUnavailable when no stream could be opened for `retry_for` seconds.
    """

    def __init__(self, manager: Manager, transport: Transport) -> None:
        self._manager = manager
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._watched: dict[UUID, Sequence[Watcher]] = {}  # never by nobody
        self._fresh: dict[UUID, None] = {}  # ids for the next stream, in order
        self._streams: set[_Stream] = set()
        self._readers: set[asyncio.Task[None]] = set()
        self._opener: asyncio.Task[None] | None = None
        self._backoff = Backoff()
        self._pause = 0.0
        self._faulty_since: float | None = None
        self._closed: TacoqError | None = None
        self.fault: Fault | None = None  # why there is no stream now, when there should be one

    async def wait(self, task_id: UUID) -> WaitLine:
        """Return the final view of the task as soon as it is final; UnknownTask when no task has the id."""
        lone = _Lone(self._loop.create_future())
        self.watch([task_id], lone)
        try:
            return await lone.line
        finally:
            if not lone.line.done() or lone.line.cancelled():
                self.unwatch([task_id], lone)
            else:
                lone.line.exception()  # looked at: an error that came when nobody listened any more is no news

    def watch(self, task_ids: Iterable[UUID], watcher: Watcher) -> None:
        """Tell `watcher` of each of these, as `wait` would. Raises the error of `close`."""
        if self._closed is not None:
            raise own_copy(self._closed)
        alone = (watcher,)  # as most are: all share it
        for task_id in task_ids:
            others = self._watched.get(task_id)
            if others is None:
                self._watched[task_id] = alone
                self._fresh[task_id] = None
            else:
                self._watched[task_id] = (*others, watcher)
        self._ask()

    def unwatch(self, task_ids: Iterable[UUID], watcher: Watcher) -> None:
        """Tell it no more; a stream that nobody needs any more is closed. Idempotent."""
        streams = [stream for stream in self._streams if stream.ids]
        for task_id in task_ids:
            watchers = self._watched.get(task_id, ())
            left = [other for other in watchers if other is not watcher]
            if left:
                self._watched[task_id] = left
            else:
                self._forget(task_id)
        for stream in streams:
            if not stream.ids and stream.reader is not None:
                stream.reader.cancel()

    async def close(self, error: TacoqError) -> None:
        """Close all streams; whoever still waits gets `error`."""
        self._closed = error
        tasks = [*self._readers, *([self._opener] if self._opener else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._fail(self._watched, error)

    def _ask(self) -> None:
        """See that there is a stream for the ids that have none."""
        if self._fresh and self._opener is None and self._closed is None:
            self._opener = self._loop.create_task(self._open_streams(), name="tacoq wait")

    async def _open_streams(self) -> None:
        """Open one stream after the other until no id is without one."""
        try:
            while self._fresh:
                if self._pause:
                    await asyncio.sleep(self._pause)
                    self._pause = 0.0
                    continue
                stream = self._next_stream()
                stream.reader = self._loop.create_task(self._read(stream), name="tacoq wait stream")
                stream.reader.add_done_callback(partial(self._ended, stream))
                self._readers.add(stream.reader)
                with suppress(TimeoutError):
                    async with asyncio.timeout(GATHER_SECONDS):
                        await stream.opened.wait()
        finally:
            self._opener = None

    def _next_stream(self) -> _Stream:
        ids = dict.fromkeys(islice(self._fresh, MAX_WAIT_TASKS))
        while len(self._streams) >= MAX_STREAMS:
            smallest = min(self._streams, key=lambda stream: len(stream.ids))
            if len(smallest.ids) + len(ids) > MAX_WAIT_TASKS:
                break
            ids |= smallest.ids
            smallest.ids = {}
            self._streams.discard(smallest)
            if smallest.reader is not None:
                smallest.reader.cancel()
        stream = _Stream(ids)
        self._streams.add(stream)
        for task_id in ids:
            self._fresh.pop(task_id, None)
        return stream

    async def _read(self, stream: _Stream) -> None:
        """Read a stream to its end."""
        begun = self._loop.time()
        try:
            async with self._manager.wait(stream.ids, seconds=STREAM_SECONDS) as chunks:
                self._faulty_since = self.fault = None
                stream.opened.set()
                async for lines in chunks:
                    for line in lines:
                        self._tell(line)
            if stream.ids and self._loop.time() - begun < STREAM_SECONDS - 1.0:
                raise Fault("the stream ended too early", sent=True)
            self._backoff = Backoff()
        except Fault as fault:
            if self._loop.time() - begun > 1.0:
                self._backoff = Backoff()
            self._after_fault(stream, fault)
        except Exception as error:  # nobody else would tell the waiters
            self._fail(stream.ids, error)

    def _ended(self, stream: _Stream, reader: asyncio.Task[None]) -> None:
        """Ask again for what a stream did not tell; its reader may have been cancelled before it began."""
        self._readers.discard(reader)
        self._streams.discard(stream)
        self._fresh |= stream.ids
        stream.ids = {}
        self._ask()
        stream.opened.set()

    def _tell(self, line: WaitLine) -> None:
        if isinstance(line, TaskView) and not line.state.final:
            return
        for watcher in self._forget(line.id):
            watcher.told(line)

    def _forget(self, task_id: UUID) -> Sequence[Watcher]:
        """Take an id out of everything and return who awaited it."""
        self._fresh.pop(task_id, None)
        for stream in self._streams:
            stream.ids.pop(task_id, None)
        return self._watched.pop(task_id, ())

    def _after_fault(self, stream: _Stream, fault: Fault) -> None:
        now = self._loop.time()
        level = logging.WARNING if self.fault is None else logging.DEBUG
        self.fault = fault
        if self._faulty_since is None:
            self._faulty_since = now
        time_left = self._faulty_since + self._transport.retry_for - now
        if time_left <= 0:
            self._faulty_since = None
            self._fail(stream.ids, self._transport.unavailable("wait for tasks", fault, outcome=_GOES_ON))
            return
        self._pause = min(self._backoff.pause(fault.pause), time_left)
        if stream.ids:
            log.log(
                level,
                "wait stream broke, opening another",
                extra={
                    "url": self._transport.url,
                    "tasks": len(stream.ids),
                    "fault": str(fault),
                    "pause": round(self._pause, 3),
                },
            )

    def _fail(self, task_ids: Iterable[UUID], error: Exception) -> None:
        for task_id in list(task_ids):
            for watcher in self._forget(task_id):
                watcher.failed(own_copy(error))
