"""Publisher: calls in, durably accepted tasks and their handles out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, Unpack, overload
from uuid import UUID

from opentelemetry.trace import Span

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.durations import Duration, parse_duration
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.events import EndsLost, TaskEnd
from tacoq_protocol.trace import active_tracer, trace_of
from tacoq_publisher.batching import Batcher
from tacoq_publisher.bulk import Bulk, BulkItem
from tacoq_publisher.completed import completed_batches
from tacoq_publisher.errors import PublisherClosed
from tacoq_publisher.handle import TaskHandle
from tacoq_publisher.manager import Manager
from tacoq_publisher.newtask import Prepared, TaskOptions, call_of, decode_json, prepare, publish_options
from tacoq_publisher.settings import load_settings
from tacoq_publisher.spans import around, end_publish, published, start_publish, start_publish_many
from tacoq_publisher.transport import Transport
from tacoq_publisher.turns import Turns
from tacoq_publisher.waiting import Waits

R = TypeVar("R")


class _Open(NamedTuple):
    """What a publisher has while it is open."""

    loop: asyncio.AbstractEventLoop
    transport: Transport
    manager: Manager
    turns: Turns
    batcher: Batcher
    waits: Waits


class Publisher:
    """Publishes tasks to the manager and awaits their results. One per event loop serves all that runs on it.

        async with Publisher() as tacoq:
            handle = await tacoq.publish("add", {"x": 2, "y": 3}, priority=5)
            print(await handle.result(timeout="30s"))

    `url` and `api_key` go before `TACOQ_MANAGER_URL` (default http://127.0.0.1:3000) and `TACOQ_API_KEY`. While the
    manager is away or broken, requests are sent again for `retry_for` before they raise ManagerUnavailable; a try
    without an answer after `request_timeout` counts as lost. Task ids are made here, so that no resend publishes a
    task twice.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retry_for: Duration = "30s",
        request_timeout: Duration = "15s",
    ) -> None:
        self._settings = load_settings(url, api_key)
        self._retry_for = parse_duration(retry_for, name="retry_for").total_seconds()
        self._try_seconds = parse_duration(request_timeout, name="request_timeout").total_seconds()
        if self._try_seconds <= 0:
            raise ConfigurationError(f"request_timeout = {request_timeout!r} leaves no time for an answer")
        self._open: _Open | None = None

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(drain=error is None)

    def open(self) -> None:
        """Belong to the running event loop from now on; connect with the first request. `async with` does this."""
        if self._open is not None:
            raise PublisherClosed("this Publisher is open already: share it, or make another one")
        transport = Transport(self._settings, retry_for=self._retry_for, try_seconds=self._try_seconds)
        manager = Manager(transport)
        batcher = Batcher(manager, retry_for=self._retry_for)
        waits = Waits(manager, transport)
        self._open = _Open(asyncio.get_running_loop(), transport, manager, Turns(), batcher, waits)

    async def close(self, *, drain: bool = True) -> None:
        """Let `publish()` calls under way end (if `drain`), fail whoever waits for a result, and disconnect.

        Leaving `async with` by an error does not drain. Idempotent.
        """
        if self._open is None:
            return
        core, self._open = self._open, None
        closed = PublisherClosed("the Publisher was closed while this was under way")
        try:
            if drain:
                await core.turns.drain()
                await core.batcher.drain()
        finally:
            core.turns.close(closed)
            await core.batcher.close(closed)
            await core.waits.close(closed)
            await core.transport.close()

    @overload
    async def publish(
        self, call: TaskCall[R], /, *, task_id: UUID | None = None, **options: Unpack[TaskOptions]
    ) -> TaskHandle[R]: ...

    @overload
    async def publish(
        self,
        kind: str,
        /,
        payload: object = None,
        *,
        task_id: UUID | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle[Any]: ...

    async def publish(
        self,
        call: TaskCall[Any] | str,
        /,
        payload: object = None,
        *,
        task_id: UUID | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle[Any]:
        """Publish one task: `publish(add.task(2, 3))`, or `publish("add", {"x": 2, "y": 3})`; options: `TaskOptions`.

        A payload is what pydantic can write as JSON, up to 1 MiB of it. When this returns, the task is durably
        accepted. Calls at the same time share requests; tasks are accepted in the order of the calls, and each call
        gets its own error. Of more than 100 such calls the later ones are prepared while the first are sent: leave
        their payloads as they are. Cancelled, it may or may not publish: with a `task_id` of your own
        (`new_task_id()`) you can look, or publish it again without harm.

        Raises ConfigurationError for a wrong option, InvalidTask for a wrong kind or payload, TaskConflict
        when `task_id` is taken by another task, TaskExists when `on_conflict` is "reject" and the unique key has a
        task, ManagerUnavailable when the manager was away for too long: it may be accepted all the same.
        """
        core = self._here()
        span = None if (tracer := active_tracer()) is None else start_publish(tracer, call, options)
        try:
            if (turn := core.turns.take()) is not None:
                await turn
            prepared = _prepared(call, payload, task_id, options, span)
            accepted = await core.batcher.publish(prepared.body)
        except BaseException as error:
            if span is not None:
                end_publish(span, error)
            raise
        handle = _handle(core, prepared)
        handle.answered(accepted)
        if span is not None:
            published(span, handle.id, duplicate=handle.duplicate)
            end_publish(span)
        return handle

    @overload
    async def publish_many(
        self, calls: Iterable[TaskCall[R]] | AsyncIterable[TaskCall[R]], **options: Unpack[TaskOptions]
    ) -> list[TaskHandle[R]]: ...

    @overload
    async def publish_many(
        self, calls: Iterable[BulkItem] | AsyncIterable[BulkItem], **options: Unpack[TaskOptions]
    ) -> list[TaskHandle[Any]]: ...

    async def publish_many(
        self, calls: Iterable[BulkItem] | AsyncIterable[BulkItem], **options: Unpack[TaskOptions]
    ) -> list[TaskHandle[Any]]:
        """Publish TaskCalls or (kind, payload) pairs with the same options; return their handles, in order.

        Requests of up to 1,000 tasks or 4 MiB leave one after the other, while the iterable is read: it may
        be as long as the list of handles fits into memory. All tasks are durable, and accepted in order, when
        this returns.

        When item i cannot be accepted, or the iterable raises there, exactly the items before it are
        accepted; InvalidTask has i as `index`. Raises PublishInterrupted (a ManagerUnavailable), which holds
        the handles of what is accepted and of what may be, and what `publish` raises. Cancelled: the items
        before a full request are accepted, those of one request may be.
        """
        bulk = self.bulk(**options)
        with around(bulk.span):
            try:
                if isinstance(calls, AsyncIterable):
                    async for call in calls:
                        if bulk.add(call):
                            await bulk.send()
                else:
                    for call in calls:
                        if bulk.add(call):
                            await bulk.send()
                return await bulk.finish()
            except Exception:
                await bulk.finish()
                raise
            finally:
                bulk.abandon()

    def bulk(self, **options: Unpack[TaskOptions]) -> Bulk:
        """Return what `publish_many` is made of, for callers with a loop of their own: they end its span.

        Raises ConfigurationError.
        """
        core, fields = self._here(), publish_options(**options)
        span = None if (tracer := active_tracer()) is None else start_publish_many(tracer, options)
        return Bulk(core.manager, fields, lambda prepared: _handle(core, prepared), span=span)

    @overload
    def handle(self, task_id: UUID | str, *, kind: str | None = None) -> TaskHandle[Any]: ...

    @overload
    def handle(
        self, task_id: UUID | str, *, kind: str | None = None, decode: Callable[[bytes], R]
    ) -> TaskHandle[R]: ...

    def handle(
        self, task_id: UUID | str, *, kind: str | None = None, decode: Callable[[bytes], Any] = decode_json
    ) -> TaskHandle[Any]:
        """Return a handle of a task published before, or elsewhere. An unknown id shows when the handle is used.

        `decode` turns the result's JSON into its type, as `add.task(2, 3).decode` does; without it results
        are plain JSON values.
        """
        core = self._opened()
        try:
            task_id = task_id if isinstance(task_id, UUID) else UUID(task_id)
        except (ValueError, AttributeError, TypeError):
            raise ConfigurationError(f"{task_id!r} is not a task id: task ids are UUIDs") from None
        return TaskHandle(task_id, kind, decode, core.manager, core.waits)

    async def as_completed(
        self, handles: Iterable[TaskHandle[R]], *, timeout: Duration | None = None
    ) -> AsyncGenerator[TaskHandle[R]]:
        """Give each handle as soon as its task is final, however it ended; its `result()` then asks nobody.

        Raises WaitTimeout, naming one of them, when not all were final after `timeout`; ManagerUnavailable.
        """
        async with aclosing(self.completed_batches(handles, timeout=timeout)) as batches:
            async for batch in batches:
                for handle in batch:
                    yield handle

    def completed_batches(
        self, handles: Iterable[TaskHandle[R]], *, timeout: Duration | None = None
    ) -> AsyncGenerator[list[TaskHandle[R]]]:
        """Like `as_completed`, but gives those that have ended since the last step together."""
        return completed_batches(self._opened().waits, handles, timeout)

    @asynccontextmanager
    async def events(
        self,
        *,
        kinds: str | Iterable[str] = (),
        queues: str | Iterable[str] = (),
        fairness_keys: str | Iterable[str] = (),
        states: str | Iterable[str] = (),
    ) -> AsyncIterator[AsyncIterator[TaskEnd | EndsLost]]:
        """Hear of tasks as they end, whoever published them, from when this is entered until it is left.

            async with tacoq.events(kinds="emails.send", states=("failed", "expired")) as events:
                async for event in events:
                    ...

        Those that fit all that is given; `states` are final ones. It is news, and no record: an EndsLost stands where
        some were not told. When the stream breaks it is opened again. Raises FilterRefused, ManagerUnavailable; so does
        the iterator.
        """
        given = {"kind": kinds, "queue": queues, "fairness_key": fairness_keys, "state": states}
        query = {name: [values] if isinstance(values, str) else list(values) for name, values in given.items()}
        async with self._here().manager.listen(query) as events:
            yield events

    def _opened(self) -> _Open:
        if self._open is None:
            raise PublisherClosed("this Publisher is not open: use it inside `async with Publisher() as tacoq:`")
        return self._open

    def _here(self) -> _Open:
        core = self._opened()
        if core.loop is not asyncio.get_running_loop():
            raise PublisherClosed(
                "this Publisher belongs to another event loop: make one per loop, or one SyncPublisher"
            )
        return core


def _prepared(
    call: TaskCall[Any] | str, payload: object, task_id: UUID | None, options: TaskOptions, span: Span | None
) -> Prepared[Any]:
    """What a publish is made of is gone when this returns: gathered publishes wait in thousands."""
    trace = None if span is None else trace_of(span)
    return prepare(call_of(call, payload), publish_options(**options), task_id=task_id, trace=trace)


def _handle(core: _Open, prepared: Prepared[R]) -> TaskHandle[R]:
    return TaskHandle(prepared.id, prepared.kind, prepared.decode, core.manager, core.waits)
