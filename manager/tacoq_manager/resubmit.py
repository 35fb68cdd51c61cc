"""Retry by hand: the id of a task that ended without a result in, a new task with the same content out."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tacoq_manager.accept import Accepter
from tacoq_manager.store.accept import Row
from tacoq_manager.store.engine import HotConnection
from tacoq_protocol.errors import TacoqError, TaskNotFound
from tacoq_protocol.http import Accepted
from tacoq_protocol.ids import new_task_id

_ENDED: Final = """
SELECT state, kind, queue, priority, fairness_key, payload, fingerprint, max_attempts, timeout, traceparent, tracestate
FROM task_history WHERE id = $1
UNION ALL
SELECT state, kind, queue, priority, fairness_key, payload, fingerprint, max_attempts, timeout, traceparent, tracestate
FROM tasks WHERE id = $1
"""


class NotRetryable(TacoqError):
    """Only a task that failed, was cancelled or expired can be retried."""


async def resubmit(accepter: Accepter, connection: HotConnection, task_id: UUID) -> Accepted:
    """Publish a copy with `retry_of` = `task_id`, due at once and without a deadline; history never changes.

    Durable when it returns. Raises TaskNotFound, NotRetryable, DatabaseUnavailable.
    """
    rows = await connection.fetch(_ENDED, task_id)
    if not rows:
        raise TaskNotFound(task_id)
    old = rows[0]
    if old["state"] not in ("failed", "cancelled", "expired"):
        raise NotRetryable(f"task {task_id} is {old['state']}: only a failed, cancelled or expired one can be retried")
    row = Row(
        id=new_task_id(),
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
    (accepted,) = await accepter.commit([row])
    return accepted
