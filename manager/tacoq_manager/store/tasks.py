"""Tasks as people and programs look at them: ids or filters in, views out, live or final in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw
from sqlalchemy import text

from tacoq_manager.store.engine import Database
from tacoq_manager.store.faults import database_faults
from tacoq_manager.store.filters import TaskTable, conditions, parameters, searching
from tacoq_manager.store.results import Results, ResultsUnavailable, lacks_result
from tacoq_protocol.http import ErrorInfo, TaskFilter, TaskPage, TaskView
from tacoq_protocol.states import FINAL, LIVE, TaskState

# `view_of` takes columns by their place here.
_SHARED: Final = (
    "id", "kind", "queue", "state", "priority", "fairness_key", "attempt", "release", "created_at", "run_at",
    "max_attempts", "timeout", "expires_at", "queued_at", "started_at", "session", "cancel_requested", "retry_of",
)  # fmt: skip
COLUMNS = ", ".join(_SHARED)
# What was asked for: from this a task can be published again.
CONTENT: Final = (
    "kind, queue, priority, fairness_key, payload, fingerprint, max_attempts, timeout, unique_key, "
    "traceparent, tracestate"
)
_nulls = ", ".join(["NULL"] * len(_SHARED))

# One index descent per id and table, into the one partition that may have it, whatever the statistics say.
VIEWS: Final = f"""
SELECT t.* FROM unnest($1::uuid[]) AS wanted (wanted_id)
CROSS JOIN LATERAL (
    SELECT {COLUMNS}, CASE WHEN $2 THEN payload END, NULL::timestamptz, NULL::bytea, NULL::text
    FROM tasks WHERE id = wanted_id
    UNION ALL
    SELECT {COLUMNS}, CASE WHEN $2 THEN payload END, finished_at, result, error::text
    FROM task_history WHERE id = wanted_id
) AS t
"""
# Of a live task nothing but that it is there.
_ENDED: Final = f"""
SELECT t.* FROM unnest($1::uuid[]) AS wanted (wanted_id)
CROSS JOIN LATERAL (
    SELECT id AS known, {_nulls}, NULL, NULL, NULL, NULL
    FROM tasks WHERE id = wanted_id
    UNION ALL
    SELECT NULL, {COLUMNS}, NULL::bytea, finished_at, result, error::text
    FROM task_history WHERE id = wanted_id
) AS t
"""
_PAGE: Final = "(SELECT {columns} FROM {table} WHERE {{where}} ORDER BY id DESC LIMIT :limit)"
_LIVE_PAGE: Final = _PAGE.format(
    columns=f"{COLUMNS}, NULL::bytea, NULL::timestamptz, NULL::bytea, NULL::text", table="tasks"
)
_FINAL_PAGE: Final = _PAGE.format(
    columns=f"{COLUMNS}, NULL::bytea, finished_at, NULL::bytea, error::text", table="task_history"
)
_RUNNING: Final = text(  # by the index of what is in flight
    _LIVE_PAGE.format(
        where="queue = :queue AND state IN ('queued', 'running')"
        " AND ((state = 'running' AND session = :session) OR id = ANY (CAST(:listed AS uuid[])))"
    ).replace("DESC", "ASC")
)
_COUNTS: Final = text("SELECT queue, state, count(*) FROM tasks GROUP BY queue, state")
RUNS_SHOWN: Final = 1_000
_STATE: Final = {state.value: state for state in TaskState}
_error = msgspec.json.Decoder(ErrorInfo).decode


async def views(database: Database, ids: Sequence[UUID], *, payload: bool = False) -> list[TaskView]:
    """Return the tasks of `ids` that there are, in no particular order. `payload`: with it.

    `Results.fill` adds results that are not in Postgres.
    """
    rows = await database.read.fetch(VIEWS, ids, payload)
    return [view_of(row) for row in rows]


async def ended(database: Database, results: Results, ids: Sequence[UUID]) -> tuple[list[TaskView], set[UUID]]:
    """Return those of `ids` that are final, and the ids of those that are live; the others do not exist.

    Of whose result cannot be had now it says that they are live: they are worth waiting for.
    """
    rows = await database.read.fetch(_ENDED, ids)
    final = [view_of(row[1:]) for row in rows if row[0] is None]
    live = {row[0] for row in rows if row[0] is not None}
    try:
        await results.fill(final)
    except ResultsUnavailable:
        live.update(view.id for view in final if lacks_result(view))
        final = [view for view in final if not lacks_result(view)]
    return final, live


async def find(database: Database, filter: TaskFilter, *, cursor: UUID | None = None, limit: int = 100) -> TaskPage:
    """Return the newest tasks (by id) that fit the filter, without payload and result.

    `cursor` is the `next` of the page before. Raises FilterRefused when they are not found in time.
    """
    wanted = frozenset(filter.state) or frozenset(TaskState)
    halves = []
    if wanted & LIVE:
        halves.append(_LIVE_PAGE.format(where=_where(filter, "tasks", cursor)))
    if wanted & FINAL:
        halves.append(_FINAL_PAGE.format(where=_where(filter, "task_history", cursor)))
    statement = text(f"SELECT * FROM ({' UNION ALL '.join(halves)}) AS t ORDER BY id DESC LIMIT :limit")
    given = parameters(filter) | ({} if cursor is None else {"cursor": cursor})
    async with searching(database) as connection:
        rows = (await connection.execute(statement, {**given, "limit": limit + 1})).all()
    found = [view_of(row) for row in rows[:limit]]
    return TaskPage(found, next=str(found[-1].id) if len(rows) > limit else None)


def _where(filter: TaskFilter, table: TaskTable, cursor: UUID | None) -> str:
    every = conditions(filter, table) + ([] if cursor is None else ["id < :cursor"])
    return " AND ".join(every) or "true"


async def running(database: Database, queue: str, session: UUID, listed: Sequence[UUID]) -> list[TaskView]:
    """Return the oldest tasks of the queue that run in the session by its reports, or that are released and `listed`.

    Raises DatabaseUnavailable.
    """
    given = {"queue": queue, "session": session, "listed": list(listed), "limit": RUNS_SHOWN}
    async with searching(database) as connection:
        return [view_of(row) for row in await connection.execute(_RUNNING, given)]


async def queue_counts(database: Database) -> dict[str, dict[TaskState, int]]:
    """Return how many live tasks each queue has, by state. Reads all of them, so not on a hot connection."""
    counts: dict[str, dict[TaskState, int]] = {}
    with database_faults():
        async with database.engine.connect() as connection:
            for queue, state, count in await connection.execute(_COUNTS):
                counts.setdefault(queue, {})[_STATE[state]] = count
    return counts


def view_of(row: Any) -> TaskView:
    """A view from a row of asyncpg or SQLAlchemy, by place: this runs for every result that is read."""
    (
        id, kind, queue, state, priority, fairness_key, attempt, release, created_at, run_at, max_attempts,
        timeout, expires_at, queued_at, started_at, session, cancel_requested, retry_of,
        payload, finished_at, result, error,
    ) = row  # fmt: skip
    return TaskView(
        id=id,
        kind=kind,
        queue=queue,
        state=_STATE[state],
        priority=priority,
        fairness_key=fairness_key,
        attempt=attempt,
        release=release,
        created_at=created_at,
        run_at=run_at,
        max_attempts=max_attempts,
        timeout=timeout,
        expires_at=expires_at,
        queued_at=queued_at,
        started_at=started_at,
        finished_at=finished_at,
        session=session,
        cancel_requested=cancel_requested,
        retry_of=retry_of,
        error=None if error is None else _error(error),
        payload=UNSET if payload is None else Raw(payload),
        result=UNSET if result is None else Raw(result),
    )
