"""Batching: tasks in one by one, requests of many out: what arrives during a request forms the next one.

One request at a time, so that tasks are accepted in the order of their `publish()` calls (two at a time were measured
5 % faster, and have no order); an idle batcher adds no wait. A request refused because of one task costs only that
task: the others go again, in a smaller request, and the size grows back with each success. So a refusal that names
nobody ends at the one to blame as well, and many bad tasks cannot make the work quadratic.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from tacoq_protocol.errors import ManagerUnavailable, TacoqError
from tacoq_protocol.http import MAX_BATCH_TASKS, Accepted
from tacoq_publisher.errors import own_copy
from tacoq_publisher.manager import Manager, Refusal

MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024


class _Waiting:
    """A task, and the `publish()` call that waits for it since `since` on the loop's clock."""

    __slots__ = ("accepted", "body", "since")

    def __init__(self, body: bytes, accepted: asyncio.Future[Accepted], since: float) -> None:
        self.body = body
        self.accepted = accepted
        self.since = since


class Batcher:
    """Belongs to one event loop. Tasks never answered for `retry_for` seconds get ManagerUnavailable."""

    def __init__(self, manager: Manager, *, retry_for: float) -> None:
        self._manager = manager
        self._retry_for = retry_for
        self._queue: deque[_Waiting] = deque()
        self._most = MAX_BATCH_TASKS
        self._sender: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def publish(self, body: bytes) -> Accepted:
        """Return when the task is durably accepted.

        Raises its own error, whatever happens to the tasks it travels with.

        Cancelled while it waits, it is not sent; while its request is in flight, it may be accepted.
        """
        waiting = _Waiting(body, self._loop.create_future(), self._loop.time())
        self._queue.append(waiting)
        if self._sender is None:
            self._sender = self._loop.create_task(self._send_all(), name="tacoq publish")
        return await waiting.accepted

    async def drain(self) -> None:
        """Return when nothing waits any more: everything has its answer."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def close(self, error: TacoqError) -> None:
        """Stop; whoever still waits gets `error`."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])
        self._fail(self._queue, error)

    async def _send_all(self) -> None:
        try:
            while batch := self._next_batch():
                await self._send(batch)
        finally:
            self._sender = None

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < self._most:
            waiting = self._queue[0]
            if not waiting.accepted.done():  # else its publish() was cancelled
                size += len(waiting.body)
                if batch and size > MAX_REQUEST_BYTES:
                    break
                batch.append(waiting)
            self._queue.popleft()
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        try:
            answer = await self._manager.accept([waiting.body for waiting in batch])
        except ManagerUnavailable as error:
            # Nothing but faults for `retry_for`: that is all the time of those who waited as long. The others
            # still have some.
            self._queue.extendleft(reversed(batch))
            overdue = self._loop.time() - self._retry_for
            self._fail([waiting for waiting in self._queue if waiting.since <= overdue], error)
        except asyncio.CancelledError:
            self._queue.extendleft(reversed(batch))
            raise
        except Exception as error:  # nobody else would tell the callers
            self._fail(batch, error)
        else:
            if isinstance(answer, Refusal):
                self._refused(batch, answer)
            else:
                self._most = min(2 * self._most, MAX_BATCH_TASKS)
                for waiting, accepted in zip(batch, answer, strict=True):
                    if not waiting.accepted.done():
                        waiting.accepted.set_result(accepted)

    def _refused(self, batch: list[_Waiting], refusal: Refusal) -> None:
        if refusal.index is not None:
            self._fail([batch.pop(refusal.index)], refusal.error)
        self._queue.extendleft(reversed(batch))
        self._most = max(1, len(batch) // 2)

    @staticmethod
    def _fail(several: Iterable[_Waiting], error: Exception) -> None:
        for waiting in several:
            if not waiting.accepted.done():
                waiting.accepted.set_exception(own_copy(error))
