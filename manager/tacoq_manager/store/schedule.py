"""Tasks that have come due, or out of time: a moment passes, pending lanes or expired ids come out."""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import HotConnection

# SKIP LOCKED: a row that a cancel holds is for the next step. The outer condition says `state = 'scheduled'` in words
# that do not fit tasks_scheduled, so that the update goes by the primary key.
_PROMOTE: Final = """
WITH due AS (
    UPDATE tasks SET state = 'pending'
    WHERE id = ANY (ARRAY(
        SELECT id FROM tasks WHERE state = 'scheduled' AND run_at <= now() ORDER BY run_at LIMIT $1
        FOR UPDATE SKIP LOCKED
    )) AND state NOT IN ('pending', 'queued', 'running')
    RETURNING queue, kind, fairness_key, priority
)
SELECT queue, kind, fairness_key, priority, count(*) AS promoted FROM due GROUP BY 1, 2, 3, 4
"""

_OVERDUE: Final = """
SELECT id FROM tasks
WHERE expires_at IS NOT NULL AND state IN ('scheduled', 'pending') AND expires_at <= now()
ORDER BY expires_at LIMIT $1
"""


class Promoted(NamedTuple):
    """A lane that got `tasks` tasks which have come due."""

    lane: Lane
    tasks: int


async def promote_due(connection: HotConnection, most: int) -> list[Promoted]:
    """Move up to `most` due tasks from scheduled to pending, the earliest first. Committed when it returns."""
    rows = await connection.fetch(_PROMOTE, most)
    return [Promoted(Lane(*lane), promoted) for *lane, promoted in rows]


async def overdue(connection: HotConnection, most: int) -> list[UUID]:
    """Return tasks whose deadline passed while they wait, the earliest first."""
    return [row["id"] for row in await connection.fetch(_OVERDUE, most)]
