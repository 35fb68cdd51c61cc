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
    """Tasks, and who waits for each, since when by the loop's clock. In columns: the collector would count objects."""

    __slots__ = ("answers", "bodies", "since")

    def __init__(self) -> None:
        self.bodies: deque[bytes] = deque()
        self.answers: deque[asyncio.Future[Accepted]] = deque()
        self.since: deque[float] = deque()

    def add(self, body: bytes, answer: asyncio.Future[Accepted], since: float) -> None:
        self.bodies.append(body)
        self.answers.append(answer)
        self.since.append(since)

    def take(self, most: int) -> _Waiting:
        """Take the next ones, for one request."""
        batch = _Waiting()
        size = 0
        while self.bodies and len(batch.bodies) < most:
            body, answer = self.bodies[0], self.answers[0]
            if not answer.done():  # else its publish() was cancelled
                size += len(body)
                if batch.bodies and size > MAX_REQUEST_BYTES:
                    break
                batch.add(body, answer, self.since[0])
            self.bodies.popleft()
            self.answers.popleft()
            self.since.popleft()
        return batch

    def put_back(self, batch: _Waiting) -> None:
        """They are the next ones again."""
        self.bodies.extendleft(reversed(batch.bodies))
        self.answers.extendleft(reversed(batch.answers))
        self.since.extendleft(reversed(batch.since))

    def remove(self, index: int) -> asyncio.Future[Accepted]:
        """Take one out; return who waits for it."""
        answer = self.answers[index]
        del self.bodies[index], self.answers[index], self.since[index]
        return answer


class Batcher:
    """Belongs to one event loop. Tasks never answered for `retry_for` seconds get ManagerUnavailable."""

    def __init__(self, manager: Manager, *, retry_for: float) -> None:
        self._manager = manager
        self._retry_for = retry_for
        self._queue = _Waiting()
        self._most = MAX_BATCH_TASKS
        self._sender: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def publish(self, body: bytes) -> asyncio.Future[Accepted]:
        """Return what is done when the task is durably accepted.

        It has the task's own error, whatever happens to the tasks it travels with.

        Cancelled while it waits, it is not sent; while its request is in flight, it may be accepted.
        """
        accepted: asyncio.Future[Accepted] = self._loop.create_future()
        self._queue.add(body, accepted, self._loop.time())
        if self._sender is None:
            self._sender = self._loop.create_task(self._send_all(), name="tacoq publish")
        return accepted

    async def drain(self) -> None:
        """Return when nothing waits any more: everything has its answer."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def close(self, error: TacoqError) -> None:
        """Stop; whoever still waits gets `error`."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])
        _fail(self._queue.answers, error)

    async def _send_all(self) -> None:
        try:
            while (batch := self._queue.take(self._most)).bodies:
                await self._send(batch)
        finally:
            self._sender = None

    async def _send(self, batch: _Waiting) -> None:
        try:
            answer = await self._manager.accept(batch.bodies)
        except ManagerUnavailable as error:
            # Nothing but faults for `retry_for`: that is all the time of those who waited as long. The others
            # still have some.
            self._queue.put_back(batch)
            overdue = self._loop.time() - self._retry_for
            _fail(
                (a for a, since in zip(self._queue.answers, self._queue.since, strict=True) if since <= overdue), error
            )
        except asyncio.CancelledError:
            self._queue.put_back(batch)
            raise
        except Exception as error:  # nobody else would tell the callers
            _fail(batch.answers, error)
        else:
            if isinstance(answer, Refusal):
                self._refused(batch, answer)
            else:
                self._most = min(2 * self._most, MAX_BATCH_TASKS)
                for waiting, accepted in zip(batch.answers, answer, strict=True):
                    if not waiting.done():
                        waiting.set_result(accepted)

    def _refused(self, batch: _Waiting, refusal: Refusal) -> None:
        if refusal.index is not None:
            _fail([batch.remove(refusal.index)], refusal.error)
        self._queue.put_back(batch)
        self._most = max(1, len(batch.bodies) // 2)


def _fail(answers: Iterable[asyncio.Future[Accepted]], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(own_copy(error))
