"""Why: a task id in, what Postgres knows of what holds it out; and a pending task in, how many go before it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from tacoq_manager.store.claim import LAST_CHANCE
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.store.tasks import COLUMNS, view_of
from tacoq_protocol.http import ErrorInfo, TaskView
from tacoq_protocol.why import MOST_AHEAD

_FACTS: Final = f"""
SELECT now(), (SELECT holder FROM leader WHERE expires_at > clock_timestamp()),
    last.outcome, last.ended_at, last.error::text, t.*
FROM (
    SELECT crashes, seq, {COLUMNS}, NULL::bytea, NULL::timestamptz, NULL::bytea, NULL::text
    FROM tasks WHERE id = $1
    UNION ALL
    SELECT crashes, seq, {COLUMNS}, NULL::bytea, finished_at, NULL::bytea, error::text
    FROM task_history WHERE id = $1
) AS t
LEFT JOIN LATERAL (
    SELECT outcome, ended_at, error FROM attempts WHERE task_id = $1 ORDER BY release DESC LIMIT 1
) AS last ON true
"""

# As turns go: higher priorities, then its own lane, then of every other key of its kind, and of every other kind, as
# many as stand before it in its own. Each count, and the number of lines that are looked at, ends at one too many:
# nothing here walks a long queue. `line` is a loose index scan, one probe a line.
_AHEAD: Final = f"""
WITH RECURSIVE line AS (
    SELECT kind, first.fairness_key FROM unnest($7::text[]) AS kind CROSS JOIN LATERAL (
        SELECT t.fairness_key FROM tasks AS t WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = kind.kind
        ORDER BY t.fairness_key LIMIT 1
    ) AS first
    UNION ALL
    SELECT line.kind, following.fairness_key FROM line CROSS JOIN LATERAL (
        SELECT t.fairness_key FROM tasks AS t
        WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = line.kind AND t.fairness_key > line.fairness_key
        ORDER BY t.fairness_key LIMIT 1
    ) AS following
),
lines AS MATERIALIZED (SELECT * FROM line LIMIT {MOST_AHEAD + 1}),
own AS MATERIALIZED (
    SELECT count(*) AS count FROM (
        SELECT FROM tasks
        WHERE state = 'pending' AND queue = $1 AND kind = $2 AND fairness_key = $3 AND priority = $4
          AND (run_at, seq) < ($5, $6)
        LIMIT {MOST_AHEAD + 1}
    ) AS t
),
higher AS (
    SELECT count(*) AS count FROM (
        SELECT FROM lines CROSS JOIN LATERAL (
            SELECT FROM tasks AS t
            WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = lines.kind
              AND t.fairness_key = lines.fairness_key AND t.priority > $4
            LIMIT {MOST_AHEAD + 1}
        ) AS t LIMIT {MOST_AHEAD + 1}
    ) AS t
),
keys AS MATERIALIZED (
    SELECT count(*) AS count FROM (
        SELECT FROM lines CROSS JOIN LATERAL (
            SELECT FROM tasks AS t
            WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = lines.kind
              AND t.fairness_key = lines.fairness_key AND t.priority = $4
            LIMIT (SELECT count FROM own)
        ) AS t
        WHERE lines.kind = $2 AND lines.fairness_key <> $3
        LIMIT {MOST_AHEAD + 1}
    ) AS t
),
kinds AS (
    SELECT count(*) AS count FROM (
        SELECT FROM unnest($7::text[]) AS kind CROSS JOIN LATERAL (
            SELECT FROM lines CROSS JOIN LATERAL (
                SELECT FROM tasks AS t
                WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = lines.kind
                  AND t.fairness_key = lines.fairness_key AND t.priority = $4
                LIMIT {MOST_AHEAD + 1}
            ) AS t
            WHERE lines.kind = kind.kind
            LIMIT (SELECT own.count + keys.count FROM own, keys)
        ) AS t
        WHERE kind.kind <> $2
        LIMIT {MOST_AHEAD + 1}
    ) AS t
)
SELECT higher.count, own.count, keys.count, kinds.count,
    EXISTS (SELECT FROM lines WHERE kind = $2 AND fairness_key <> $3), (SELECT count(*) FROM lines)
FROM higher, own, keys, kinds
"""

_LAST_CHANCE_OUT: Final = f"""
SELECT id FROM tasks WHERE crashes >= {LAST_CHANCE} AND queue = $1 AND state NOT IN ('scheduled', 'pending') LIMIT 1
"""

_WAITS: Final = "SELECT FROM tasks WHERE state = 'pending' AND queue = $1 AND kind = $2 LIMIT 1"

_error = msgspec.json.Decoder(ErrorInfo).decode


class LastRun(NamedTuple):
    """The end of a run that was not a first-time success."""

    outcome: str
    ended_at: datetime
    error: ErrorInfo | None


class Facts(NamedTuple):
    """A task, and what there is beside it at `now`. `leader`: the manager that leads."""

    now: datetime
    leader: UUID | None
    crashes: int
    seq: int
    last_run: LastRun | None
    task: TaskView


class Ahead(NamedTuple):
    """How many tasks go before one, up to MOST_AHEAD (`more`: so many, and others).

    `own_key` counts those of its own lane, `other_keys`: keys of its kind take turns with its own.
    """

    tasks: int
    more: bool
    own_key: int
    other_keys: bool


async def facts(connection: HotConnection, task_id: UUID) -> Facts | None:
    """Return all about a task, in one snapshot; None when it is not known. Raises DatabaseUnavailable."""
    rows = await connection.fetch(_FACTS, task_id)
    if not rows:
        return None
    now, leader, outcome, ended_at, error, crashes, seq, *view = rows[0]
    last = None if outcome is None else LastRun(outcome, ended_at, None if error is None else _error(error))
    return Facts(now, leader, crashes, seq, last, view_of(view))


async def ahead(connection: HotConnection, task: TaskView, seq: int, kinds: Collection[str]) -> Ahead:
    """Count the pending tasks before this one; of its queue those of `kinds` have their turns.

    As if its key, and its kind, were the next that have their turn: of each of the others one may go before it.
    """
    given = (task.queue, task.kind, task.fairness_key, task.priority, task.run_at, seq, sorted({*kinds, task.kind}))
    rows = await connection.fetch(_AHEAD, *given)
    higher, own, keys, others, other_keys, lines = rows[0]
    count = higher + own + keys + others
    more = count > MOST_AHEAD or lines > MOST_AHEAD
    return Ahead(min(count, MOST_AHEAD), more, own, other_keys)


async def last_chance_out(connection: HotConnection, queue: str) -> UUID | None:
    """Return the task on its last chance that is released in the queue: no other one is meanwhile."""
    rows = await connection.fetch(_LAST_CHANCE_OUT, queue)
    return rows[0]["id"] if rows else None


async def waits(connection: HotConnection, queue: str, kind: str) -> bool:
    """Return whether a task of the kind is pending in the queue."""
    return bool(await connection.fetch(_WAITS, queue, kind))
