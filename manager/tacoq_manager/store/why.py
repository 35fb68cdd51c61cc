"""Why: a task id in, what Postgres knows of what holds it out; and a pending task in, how many go before it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from tacoq_manager.store.claim import LAST_CHANCE, Line
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

# Loose index scan: one probe a line, whatever lies in it.
_LINES: Final = """
WITH RECURSIVE line AS (
    SELECT kind, first.fairness_key FROM unnest($2::text[]) AS kind CROSS JOIN LATERAL (
        SELECT t.fairness_key FROM tasks AS t WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = kind.kind
        ORDER BY t.fairness_key LIMIT 1
    ) AS first
    UNION ALL
    SELECT line.kind, following.fairness_key FROM line CROSS JOIN LATERAL (
        SELECT t.fairness_key FROM tasks AS t
        WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = line.kind AND t.fairness_key > line.fairness_key
        ORDER BY t.fairness_key LIMIT 1
    ) AS following
)
SELECT kind, fairness_key FROM line LIMIT $3
"""

# As turns go: higher priorities, then its own lane, then of every other key of its kind what its turns take until then,
# then of every other kind as many as stand before it in its own. Each count ends at one too many: nothing here walks a
# long line.
_AHEAD: Final = f"""
WITH lines AS MATERIALIZED (
    SELECT * FROM unnest($8::text[], $9::text[], $10::int[]) AS line (kind, fairness_key, weight)
),
own AS MATERIALIZED (
    SELECT count(*) AS tasks FROM (
        SELECT FROM tasks
        WHERE state = 'pending' AND queue = $1 AND kind = $2 AND fairness_key = $3 AND priority = $4
          AND (run_at, seq) < ($5, $6)
        LIMIT {MOST_AHEAD + 1}
    ) AS t
),
higher AS (
    SELECT count(*) AS tasks FROM (
        SELECT FROM lines CROSS JOIN LATERAL (
            SELECT FROM tasks AS t
            WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = lines.kind
              AND t.fairness_key = lines.fairness_key AND t.priority > $4
            LIMIT {MOST_AHEAD + 1}
        ) AS t LIMIT {MOST_AHEAD + 1}
    ) AS t
),
keys AS MATERIALIZED (
    SELECT count(*) AS tasks FROM (
        SELECT FROM lines CROSS JOIN LATERAL (
            SELECT FROM tasks AS t
            WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = lines.kind
              AND t.fairness_key = lines.fairness_key AND t.priority = $4
            LIMIT (SELECT own.tasks / $7 FROM own) * lines.weight
        ) AS t
        WHERE lines.kind = $2 AND lines.fairness_key <> $3
        LIMIT {MOST_AHEAD + 1}
    ) AS t
),
kinds AS (
    SELECT count(*) AS tasks FROM (
        SELECT FROM (SELECT DISTINCT kind FROM lines WHERE kind <> $2) AS other CROSS JOIN LATERAL (
            SELECT FROM lines CROSS JOIN LATERAL (
                SELECT FROM tasks AS t
                WHERE t.state = 'pending' AND t.queue = $1 AND t.kind = lines.kind
                  AND t.fairness_key = lines.fairness_key AND t.priority = $4
                LIMIT {MOST_AHEAD + 1}
            ) AS t
            WHERE lines.kind = other.kind
            LIMIT (SELECT own.tasks + keys.tasks FROM own, keys)
        ) AS t
        LIMIT {MOST_AHEAD + 1}
    ) AS t
)
SELECT higher.tasks, own.tasks, keys.tasks, kinds.tasks FROM higher, own, keys, kinds
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


async def lines(connection: HotConnection, queue: str, kinds: Collection[str]) -> list[Line]:
    """Return where tasks of these kinds are pending, MOST_AHEAD + 1 lines at most. Raises DatabaseUnavailable."""
    rows = await connection.fetch(_LINES, queue, sorted(kinds), MOST_AHEAD + 1)
    return [Line(queue, *row) for row in rows]


async def ahead(
    connection: HotConnection, task: TaskView, seq: int, lines: Sequence[Line], weight: Callable[[str], int]
) -> Ahead:
    """Count the pending tasks that go before this one, where these lines have their turns.

    As if its key, and its kind, were the next that have their turn: of each of the others one turn may go before it.
    `weight`: how many tasks of a key go in a turn.
    """
    rows = await connection.fetch(
        _AHEAD,
        task.queue,
        task.kind,
        task.fairness_key,
        task.priority,
        task.run_at,
        seq,
        weight(task.fairness_key),
        [line.kind for line in lines],
        [line.fairness_key for line in lines],
        [weight(line.fairness_key) for line in lines],
    )
    higher, own, keys, kinds = rows[0]
    tasks = higher + own + keys + kinds
    others = any(line.kind == task.kind and line.fairness_key != task.fairness_key for line in lines)
    more = tasks > MOST_AHEAD or len(lines) > MOST_AHEAD
    return Ahead(min(tasks, MOST_AHEAD), more, own, others)


async def last_chance_out(connection: HotConnection, queue: str) -> UUID | None:
    """Return the task on its last chance that is released in the queue: no other one is meanwhile."""
    rows = await connection.fetch(_LAST_CHANCE_OUT, queue)
    return rows[0]["id"] if rows else None


async def waits(connection: HotConnection, queue: str, kind: str) -> bool:
    """Return whether a task of the kind is pending in the queue."""
    return bool(await connection.fetch(_WAITS, queue, kind))
