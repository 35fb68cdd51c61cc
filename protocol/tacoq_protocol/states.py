"""The states of a task, and which of them are final."""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """Where a task is. Only `tacoq_manager.transitions` says what may follow what."""

    SCHEDULED = "scheduled"  # not due: delay, or wait before a retry      → pending (schedule step)
    PENDING = "pending"  # due, waits in Postgres for credit               → queued (dispatch)
    QUEUED = "queued"  # released to RabbitMQ                              → running or final (settle)
    RUNNING = "running"  # a worker reported its start                     → final, or a further try (settle, rescue)
    COMPLETED = "completed"
    FAILED = "failed"  # attempts used up, or not retryable: the dead letters
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # the deadline passed before it started

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED})
LIVE = frozenset(TaskState) - FINAL
RELEASED = frozenset({TaskState.QUEUED, TaskState.RUNNING})
