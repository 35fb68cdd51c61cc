"""Context: what a handler may know about its run. Given to a parameter annotated `Context`."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tacoq_protocol.messages import Fence

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

log = logging.getLogger("tacoq.task")


class TaskLogger(_Adapter):
    """Adds the task's fields to every record, next to the call's own `extra`."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class Context:
    """One run of a task.

    `attempt` is the policy's counter: 0 on the first try, then the number of earlier runs that failed.
    `release` is the number of this hand-over; with the task id it is the fence, which only grows. `deadline`
    is when the run will be stopped (its start plus the timeout, UTC), None without a timeout.
    """

    __slots__ = ("_cancelled", "attempt", "deadline", "kind", "queue", "release", "task_id")

    def __init__(
        self,
        *,
        task_id: UUID,
        kind: str,
        queue: str,
        attempt: int = 0,
        release: int = 1,
        deadline: datetime | None = None,
    ) -> None:
        self.task_id = task_id
        self.kind = kind
        self.queue = queue
        self.attempt = attempt
        self.release = release
        self.deadline = deadline
        self._cancelled = False

    @property
    def fence(self) -> Fence:
        """(task id, release): for stores that can refuse a write with a smaller one."""
        return Fence(self.task_id, self.release)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this task, and for no other task: for e-mails and HTTP calls."""
        return str(self.task_id)

    @property
    def cancelled(self) -> bool:
        """True once the run should stop: cancelled, out of time, or shut down.

        For `def` handlers in threads, which nobody can stop from outside: look at it between steps and return
        or raise. `async def` handlers get `asyncio.CancelledError` instead, and a process is killed.
        """
        return self._cancelled

    @property
    def logger(self) -> TaskLogger:
        """Logger `tacoq.task` with task_id, kind, release and attempt on every record."""
        return TaskLogger(
            log,
            {
                "task_id": str(self.task_id),
                "kind": self.kind,
                "release": self.release,
                "attempt": self.attempt,
            },
        )

    def ask_to_stop(self) -> None:
        """Set `cancelled`. For the worker, and for tests of handlers."""
        self._cancelled = True
