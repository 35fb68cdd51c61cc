"""Retry by hand: tasks that ended without a result in, rows of new tasks with the same content out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

from tacoq_manager.accept import Accepter
from tacoq_manager.store.accept import Row
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.store.keyed import Keys
from tacoq_manager.store.tasks import CONTENT
from tacoq_protocol.errors import TacoqError, TaskNotFound
from tacoq_protocol.http import Accepted
from tacoq_protocol.ids import new_task_id, task_id_from
from tacoq_protocol.states import TaskState

RETRYABLE: Final = frozenset({TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED})
_ENDED: Final = f"""
SELECT state, {CONTENT} FROM task_history WHERE id = $1
UNION ALL
SELECT state, {CONTENT} FROM tasks WHERE id = $1
"""


class Columns(Protocol):
    """A row, of asyncpg or SQLAlchemy."""

    def __getitem__(self, name: str, /) -> Any: ...


class NotRetryable(TacoqError):
    """Only a task that failed, was cancelled or expired can be retried."""


async def resubmit(accepter: Accepter, connection: HotConnection, task_id: UUID) -> Accepted:
    """Publish a copy with `retry_of` = `task_id`, due at once and without a deadline; history never changes.

    A live task that has its unique key is the answer instead. Durable when it returns. Raises TaskNotFound,
    NotRetryable, DatabaseUnavailable.
    """
    rows = await connection.fetch(_ENDED, task_id)
    if not rows:
        raise TaskNotFound(task_id)
    old = rows[0]
    if old["state"] not in RETRYABLE:
        raise NotRetryable(f"task {task_id} is {old['state']}: only a failed, cancelled or expired one can be retried")
    row = copy(task_id, old, id=new_task_id())
    (accepted,) = await accepter.commit([row], unique_keys([row], [old]))
    return accepted


def unique_keys(rows: Sequence[Row], old: Sequence[Columns]) -> dict[UUID, Keys]:
    """Return the keys of copies: the unique ones of the old tasks. An idempotency key stays with its first task."""
    return {
        row.id: Keys(unique=columns["unique_key"])
        for row, columns in zip(rows, old, strict=True)
        if columns["unique_key"] is not None
    }


def copy(task_id: UUID, old: Columns, *, id: UUID) -> Row:
    """Return the row of a new task with the content of an old one; `old` has the columns of CONTENT by name."""
    return Row(
        id=id,
        kind=old["kind"],
        queue=old["queue"],
        priority=old["priority"],
        fairness_key=old["fairness_key"],
        payload=old["payload"],
        fingerprint=old["fingerprint"],
        delay=None,
        run_at=None,
        expires_in=None,
        expires_at=None,
        max_attempts=old["max_attempts"],
        timeout=old["timeout"],
        retry_of=task_id,
        traceparent=old["traceparent"],
        tracestate=old["tracestate"],
        queue_given=True,
    )


def retry_id(task_id: UUID, as_of: datetime) -> UUID:
    """Return the id of the retry of `task_id` that was asked for as of a moment: always the same.

    It is dated by that moment, not by the task: its outcome is kept as long as that of any other new task.
    """
    asked = hashlib.blake2b(task_id.bytes + as_of.astimezone(UTC).isoformat().encode(), digest_size=10)
    return task_id_from(as_of, asked.digest())
