"""Ends: ids of tasks that have ended in, what is told of them out. Nothing large is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from tacoq_manager.store.engine import HotConnection
from tacoq_protocol.events import TaskEnd
from tacoq_protocol.states import TaskState

_ENDS: Final = """
SELECT t.* FROM unnest($1::uuid[]) AS wanted (wanted_id)
CROSS JOIN LATERAL (
    SELECT id, kind, queue, fairness_key, priority, state, attempt, created_at, started_at, finished_at,
        error ->> 'type'
    FROM task_history WHERE id = wanted_id
) AS t
"""
_STATE: Final = {state.value: state for state in TaskState}


async def ends(connection: HotConnection, ids: Sequence[UUID]) -> list[TaskEnd]:
    """Return those of `ids` that have ended, in their order. Raises DatabaseUnavailable."""
    return [
        TaskEnd(
            id=id,
            kind=kind,
            queue=queue,
            fairness_key=fairness_key,
            priority=priority,
            state=_STATE[state],
            attempt=attempt,
            created_at=created_at,
            started_at=started_at,
            finished_at=finished_at,
            error_type=error_type,
        )
        for (
            id, kind, queue, fairness_key, priority, state, attempt, created_at, started_at, finished_at, error_type
        ) in await connection.fetch(_ENDS, ids)
    ]  # fmt: skip
