"""Bulk: calls in one after the other, their handles out, accepted in order in requests of up to 1,000 tasks.

While one request is in flight the next one is filled. `add` needs no event loop, so a caller's iterable can
run in the caller's own thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.trace import Span

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import InvalidTask, ManagerUnavailable, TacoqError, TaskConflict, TaskExists
from tacoq_protocol.http import MAX_BATCH_TASKS
from tacoq_protocol.trace import current_trace, trace_of
from tacoq_publisher.batching import MAX_REQUEST_BYTES
from tacoq_publisher.errors import PublishInterrupted
from tacoq_publisher.handle import TaskHandle
from tacoq_publisher.manager import Manager, Refusal
from tacoq_publisher.newtask import NewTaskFields, Prepared, prepare, untyped_call
from tacoq_publisher.spans import published_many

BulkItem = TaskCall[Any] | tuple[str, object]


class Bulk:
    """One `publish_many`: `add` until a request is full, then `send`; at last `finish`, and always `abandon`.

    When item `index` cannot be accepted, exactly the items before it are: they are sent, and InvalidTask
    names it. All items carry the context of `span`, or without one that of the span that is current now.
    """

    def __init__(
        self,
        manager: Manager,
        fields: NewTaskFields,
        handle: Callable[[Prepared[Any]], TaskHandle[Any]],
        *,
        span: Span | None,
    ) -> None:
        self.span = span
        self._trace = current_trace() if span is None else trace_of(span)
        self._manager = manager
        self._fields = fields
        self._handle = handle
        self._handles: list[TaskHandle[Any]] = []
        self._accepted = 0  # that many of the first are durable
        self._next: list[bytes] = []
        self._next_bytes = 0
        self._in_flight: asyncio.Task[None] | None = None

    def add(self, item: BulkItem) -> bool:
        """Take an item; True when a request is full. Raises InvalidTask with the item's index."""
        index = len(self._handles)
        call = item if isinstance(item, TaskCall) else untyped_call(*_pair(item, index), index=index)
        prepared = prepare(call, self._fields_of(index), index=index, trace=self._trace)
        self._handles.append(self._handle(prepared))
        self._next.append(prepared.body)
        self._next_bytes += len(prepared.body)
        return len(self._next) >= MAX_BATCH_TASKS or self._next_bytes >= MAX_REQUEST_BYTES

    def _fields_of(self, index: int) -> NewTaskFields:
        key = self._fields.get("idempotency_key")
        return self._fields if key is None else {**self._fields, "idempotency_key": f"{key}[{index}]"}

    async def send(self) -> None:
        """Send what was added.

        Returns when the request before is answered; raises its error, and then sends nothing more.
        """
        tasks, self._next, self._next_bytes = self._next, [], 0
        await self._answered()
        self._in_flight = asyncio.create_task(self._accept(tasks), name="tacoq publish_many")

    async def finish(self) -> list[TaskHandle[Any]]:
        """Send what is left and return the handles of all items, in order, when all are durable."""
        await self.send()
        await self._answered()
        return self._handles

    def abandon(self) -> None:
        """Send nothing more. What is in flight may be accepted."""
        if self.span is not None:
            published_many(self.span, self._handles[: self._accepted])
        if self._in_flight is not None and not self._in_flight.cancel():
            self._in_flight.exception()  # looked at: another error is being raised

    async def _answered(self) -> None:
        if self._in_flight is not None:
            try:
                await self._in_flight
            finally:
                self._in_flight = None

    async def _accept(self, tasks: Sequence[bytes]) -> None:
        if not tasks:
            return
        try:
            answer = await self._manager.accept(tasks)
        except ManagerUnavailable as error:
            first = self._accepted
            raise PublishInterrupted(
                f"{error}; the first {first} items of publish_many are accepted, {len(tasks)} more may be",
                accepted=self._handles[:first],
                unknown=self._handles[first : first + len(tasks)],
                status=error.status,
            ) from None
        if not isinstance(answer, Refusal):
            for accepted in answer:
                self._handles[self._accepted].answered(accepted)
                self._accepted += 1
        elif answer.index is None:  # too large for something on the way
            half = len(tasks) // 2
            await self._accept(tasks[:half])
            await self._accept(tasks[half:])
        else:
            await self._accept(tasks[: answer.index])
            raise _of_item(answer.error, self._accepted)


def _of_item(error: TacoqError, index: int) -> TacoqError:
    match error:
        case InvalidTask():
            return InvalidTask(str(error), index=index)
        case TaskConflict():
            return TaskConflict(str(error), task_id=error.task_id, index=index)
        case TaskExists():
            return TaskExists(str(error), task_id=error.task_id, index=index)
        case _:
            return error


def _pair(item: object, index: int) -> tuple[Any, object]:
    if isinstance(item, tuple) and len(item) == 2:
        return item
    raise InvalidTask(f"{item!r} is neither a TaskCall nor a (kind, payload) pair", index=index)
