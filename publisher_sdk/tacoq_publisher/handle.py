"""TaskHandle: a published task's id in, its state, its result or its cancel out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar
from uuid import UUID

import msgspec

from tacoq_protocol.durations import Duration, parse_duration
from tacoq_protocol.errors import (
    ResultExpired,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotCompleted,
    TaskNotFound,
    WaitTimeout,
)
from tacoq_protocol.http import Accepted, TaskView
from tacoq_protocol.states import TaskState
from tacoq_protocol.why import Why
from tacoq_publisher.manager import Manager, WaitLine
from tacoq_publisher.waiting import Waits

R = TypeVar("R")

log = logging.getLogger("tacoq.publisher")


class TaskHandle(Generic[R]):
    """A task, and what can be asked of it. `R` is its handler's return type.

    It works while the publisher it comes from is open. To take it elsewhere, take `handle.id`, and make
    another one with `publisher.handle(id)`. `kind` is None where only the id was known. `duplicate`: the publish made
    no task of its own, because a key that it gave had one: this.
    """

    __slots__ = ("_decode", "_final", "_manager", "_waits", "duplicate", "id", "kind")

    def __init__(
        self, task_id: UUID, kind: str | None, decode: Callable[[bytes], R], manager: Manager, waits: Waits
    ) -> None:
        self.id = task_id
        self.kind = kind
        self.duplicate = False
        self._decode = decode
        self._manager = manager
        self._waits = waits
        self._final: WaitLine | None = None

    def __repr__(self) -> str:
        return f"TaskHandle({self.id}, kind={self.kind!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a TaskHandle cannot be pickled, it uses its publisher's connections: send handle.id, "
            "and make another with publisher.handle(id)"
        )

    async def state(self) -> TaskState:
        """Ask for the state now. Raises TaskNotFound, ManagerUnavailable."""
        return (await self.view()).state

    async def view(self, *, payload: bool = False) -> TaskView:
        """Ask for all that the manager knows now; the payload (raw JSON) only when asked for.

        Raises TaskNotFound, ManagerUnavailable.
        """
        return await self._manager.view(self.id, payload=payload)

    async def why(self) -> Why:
        """Ask why it is where it is: one reason, and a sentence. Raises TaskNotFound, ManagerUnavailable."""
        return await self._manager.why(self.id)

    async def wait(self, timeout: Duration | None = None) -> TaskView:
        """Return the final view as soon as the task is final, however it ended.

        Pushed by the manager; handles awaited at the same time share the stream. Raises WaitTimeout after
        `timeout`: the task goes on, and so may the waiting; TaskNotFound; ManagerUnavailable when the manager
        was away for too long.
        """
        if self._final is None:
            self.remember(await (self._waits.wait(self.id) if timeout is None else self._told_within(timeout)))
        final = self._final
        if not isinstance(final, TaskView):
            self._final = None  # it may yet be published
            raise TaskNotFound(self.id)
        return final

    async def _told_within(self, timeout: Duration) -> WaitLine:
        seconds = parse_duration(timeout, name="timeout").total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await self._waits.wait(self.id)
        except TimeoutError:
            raise WaitTimeout(self.id, seconds) from self._waits.fault

    async def result(self, timeout: Duration | None = None) -> R:
        """Return the handler's return value as soon as it is there; once it is, it is kept.

        Raises what `wait` raises; TaskFailed, TaskCancelled or TaskExpired when the task ended so; ResultExpired
        when it completed and managers keep results for a time only, in Redis, where this one is gone; pydantic's
        ValidationError (msgspec's, for a struct) when the result does not fit the type the caller expects.
        """
        view = await self.wait(timeout)
        if view.result_expired:
            raise ResultExpired(view.id, view.kind, view.finished_at)
        if view.state is TaskState.COMPLETED:
            return self._decode(b"null" if isinstance(view.result, msgspec.UnsetType) else bytes(view.result))
        raise outcome_error(view)

    async def cancel(self) -> TaskState:
        """Ask for a cancel and return the state the task is in then.

        `cancelled`: it will not run. `queued` or `running`: its workers are told; it ends as cancelled unless
        it completes first. Any other: it had ended before. Raises TaskNotFound, ManagerUnavailable.
        """
        cancelled = await self._manager.cancel(self.id)
        return await self.state() if cancelled is None else cancelled.state

    def answered(self, accepted: Accepted) -> None:
        """Be the handle of the task that the publish was answered with."""
        if accepted.id != self.id:
            self.id, self.duplicate = accepted.id, True
        if accepted.differs is True:
            log.warning(
                "idempotency key was used for another payload; its first task stands",
                extra={"kind": self.kind, "task_id": self.id},
            )

    @property
    def ended(self) -> bool:
        """True when the end of the task is known here, so that `wait` and `result` ask nobody."""
        return isinstance(self._final, TaskView)

    def remember(self, line: WaitLine) -> None:
        """Keep what the manager has told of the end of this task."""
        self._final = line


def outcome_error(view: TaskView) -> TaskNotCompleted:
    """Return the error that tells of a final view without a result."""
    error = view.error
    match view.state:
        case TaskState.FAILED:
            return TaskFailed(
                view.id,
                view.kind,
                error.type if error else "unknown",
                error.message if error else "no error was reported",
                error.traceback if error else None,
            )
        case TaskState.CANCELLED:
            why = f": {error.message}" if error else ""
            return TaskCancelled(view.id, f"task {view.id} of kind {view.kind!r} was cancelled{why}")
        case TaskState.EXPIRED:
            return TaskExpired(
                view.id,
                f"task {view.id} of kind {view.kind!r} expired: its deadline passed before it started",
            )
        case _:
            raise ValueError(f"task {view.id} is {view.state}: it did not end without a result")
