"""SyncPublisher: blocking calls in, the asyncio publisher's answers out; its thread serves all threads."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload
from uuid import UUID

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.durations import Duration
from tacoq_protocol.http import TaskView
from tacoq_protocol.states import TaskState
from tacoq_protocol.why import Why
from tacoq_publisher.bulk import Bulk, BulkItem
from tacoq_publisher.errors import PublisherClosed
from tacoq_publisher.handle import TaskHandle
from tacoq_publisher.newtask import TaskOptions, decode_json
from tacoq_publisher.publisher import Publisher
from tacoq_publisher.spans import around

R = TypeVar("R")
T = TypeVar("T")


class _LoopThread:
    """A thread that runs an event loop, and an open publisher on it."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._gate = threading.RLock()  # what passes it before `stop` gets an answer
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="tacoq publisher", daemon=True)
        self._thread.start()
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop, in the caller's context (trace), and wait; an interrupt cancels it."""
        try:
            self._check_place()
            with self._gate:
                if self._stopped:
                    raise PublisherClosed("this SyncPublisher was closed: make another one")
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except PublisherClosed:
            work.close()
            raise
        try:
            return future.result()
        finally:
            future.cancel()  # does nothing to what is done: this is for KeyboardInterrupt

    def stop(self) -> None:
        """Close the publisher and end the thread. Does nothing after a fork: both are the parent's."""
        if self._pid != os.getpid():
            return
        with self._gate:
            if not self._stopped:
                self._stopped = True
                asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        if threading.current_thread() is not self._thread:  # the garbage collector runs anywhere
            self._thread.join()

    def _check_place(self) -> None:
        if self._pid != os.getpid():
            raise PublisherClosed(
                f"this SyncPublisher was opened in process {self._pid}, and its thread stayed there: "
                "make one per process, after the fork"
            )
        if threading.current_thread() is self._thread:
            raise PublisherClosed("a SyncPublisher cannot be used on its own thread: it would wait for itself")

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _open(self) -> None:
        self._publisher.open()

    async def _shut_down(self) -> None:
        try:
            await self._publisher.close()
            if others := asyncio.all_tasks() - {asyncio.current_task()}:  # they end now, with an error
                await asyncio.wait(others)
            await self._loop.shutdown_asyncgens()
        finally:
            self._loop.stop()


class SyncTaskHandle(Generic[R]):
    """`TaskHandle` with methods that block; see there."""

    __slots__ = ("_handle", "_publisher")

    def __init__(self, handle: TaskHandle[R], publisher: SyncPublisher) -> None:
        self._handle = handle
        self._publisher = publisher

    def __repr__(self) -> str:
        return f"Sync{self._handle!r}"

    @property
    def inner(self) -> TaskHandle[R]:
        """The handle on the publisher's own loop."""
        return self._handle

    @property
    def id(self) -> UUID:
        return self._handle.id

    @property
    def kind(self) -> str | None:
        return self._handle.kind

    @property
    def duplicate(self) -> bool:
        return self._handle.duplicate

    def state(self) -> TaskState:
        """Ask for the state now."""
        return self._publisher.run(self._handle.state())

    def view(self, *, payload: bool = False) -> TaskView:
        """Ask for all that the manager knows now."""
        return self._publisher.run(self._handle.view(payload=payload))

    def why(self) -> Why:
        """Ask why it is where it is."""
        return self._publisher.run(self._handle.why())

    def wait(self, timeout: Duration | None = None) -> TaskView:
        """Return the final view as soon as the task is final, however it ended."""
        return self._publisher.run(self._handle.wait(timeout))

    def result(self, timeout: Duration | None = None) -> R:
        """Return the handler's return value as soon as it is there."""
        return self._publisher.run(self._handle.result(timeout))

    def cancel(self) -> TaskState:
        """Ask for a cancel and return the state the task is in then."""
        return self._publisher.run(self._handle.cancel())


class SyncPublisher:
    """`Publisher` for code without an event loop: same arguments, same errors, methods that block.

    One object serves any number of threads; publishes of several threads at a time share requests. It opens
    with its first use, so it may be made before a fork (pre-forking servers), but not used on both sides of
    one. `close()`, or the end of `with`, closes it; otherwise the end of the process does.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retry_for: Duration = "30s",
        request_timeout: Duration = "15s",
    ) -> None:
        self._publisher = Publisher(url, api_key, retry_for=retry_for, request_timeout=request_timeout)
        self._opening = threading.Lock()
        self._opened: _LoopThread | None = None
        self._stop: Callable[[], object] | None = None
        self._closed = False

    def __enter__(self) -> Self:
        self._thread()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let publishes under way end, fail who waits for a result, disconnect, end the thread. Idempotent."""
        with self._opening:
            self._closed = True
            stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    @overload
    def publish(
        self, call: TaskCall[R], /, *, task_id: UUID | None = None, **options: Unpack[TaskOptions]
    ) -> SyncTaskHandle[R]: ...

    @overload
    def publish(
        self,
        kind: str,
        /,
        payload: object = None,
        *,
        task_id: UUID | None = None,
        **options: Unpack[TaskOptions],
    ) -> SyncTaskHandle[Any]: ...

    def publish(
        self,
        call: TaskCall[Any] | str,
        /,
        payload: object = None,
        *,
        task_id: UUID | None = None,
        **options: Unpack[TaskOptions],
    ) -> SyncTaskHandle[Any]:
        """Publish one task; durably accepted when this returns. See `Publisher.publish`."""
        # Its overloads hide that it takes what ours take.
        publish: Callable[..., Coroutine[Any, Any, TaskHandle[Any]]] = self._publisher.publish
        return SyncTaskHandle(self.run(publish(call, payload, task_id=task_id, **options)), self)

    @overload
    def publish_many(self, calls: Iterable[TaskCall[R]], **options: Unpack[TaskOptions]) -> list[SyncTaskHandle[R]]: ...

    @overload
    def publish_many(self, calls: Iterable[BulkItem], **options: Unpack[TaskOptions]) -> list[SyncTaskHandle[Any]]: ...

    def publish_many(self, calls: Iterable[BulkItem], **options: Unpack[TaskOptions]) -> list[SyncTaskHandle[Any]]:
        """Publish all of `calls`, which is read in the calling thread. See `Publisher.publish_many`."""
        bulk = self.run(_bulk(self._publisher, options))
        with around(bulk.span):
            try:
                for call in calls:
                    if bulk.add(call):
                        self.run(bulk.send())
                return [SyncTaskHandle(handle, self) for handle in self.run(bulk.finish())]
            except Exception:
                self.run(bulk.finish())
                raise
            finally:
                with suppress(PublisherClosed):
                    self.run(_abandon(bulk))

    @overload
    def handle(self, task_id: UUID | str, *, kind: str | None = None) -> SyncTaskHandle[Any]: ...

    @overload
    def handle(
        self, task_id: UUID | str, *, kind: str | None = None, decode: Callable[[bytes], R]
    ) -> SyncTaskHandle[R]: ...

    def handle(
        self, task_id: UUID | str, *, kind: str | None = None, decode: Callable[[bytes], Any] = decode_json
    ) -> SyncTaskHandle[Any]:
        """Return a handle of a task published before, or elsewhere. See `Publisher.handle`."""
        self._thread()
        return SyncTaskHandle(self._publisher.handle(task_id, kind=kind, decode=decode), self)

    def as_completed(
        self, handles: Iterable[SyncTaskHandle[R]], *, timeout: Duration | None = None
    ) -> Iterator[SyncTaskHandle[R]]:
        """Give each handle as soon as its task is final. See `Publisher.as_completed`."""
        self._thread()
        ours = {handle.inner: handle for handle in handles}
        batches = self._publisher.completed_batches(ours, timeout=timeout)
        try:
            while batch := self.run(_next(batches)):
                for handle in batch:
                    yield ours[handle]
        finally:
            with suppress(PublisherClosed):
                self.run(_close(batches))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the asyncio publisher, or of its handles, on its thread; return what it returns."""
        try:
            thread = self._thread()
        except PublisherClosed:
            work.close()
            raise
        return thread.run(work)

    def _thread(self) -> _LoopThread:
        thread = self._opened
        if thread is None or self._closed:
            with self._opening:
                if self._closed:
                    raise PublisherClosed("this SyncPublisher was closed: make another one")
                if self._opened is None:
                    self._opened = _LoopThread(self._publisher)
                    # Also runs when this object is gone, and at the end of the process.
                    self._stop = weakref.finalize(self, self._opened.stop)
                thread = self._opened
        return thread


async def _bulk(publisher: Publisher, options: TaskOptions) -> Bulk:
    return publisher.bulk(**options)


async def _abandon(bulk: Bulk) -> None:
    bulk.abandon()


async def _next(batches: AsyncGenerator[list[TaskHandle[R]]]) -> list[TaskHandle[R]]:
    return await anext(batches, [])


async def _close(batches: AsyncGenerator[Any]) -> None:
    await batches.aclose()
