"""Timeline: a task id in, what happened to the task out: its accept, each release with its end, waits, cancel, retries.

A first-time success has its one release in its own row; of every other release that ended there is a row in `attempts`.
A release whose message was not confirmed leaves none: its number is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from tacoq_manager.store.engine import Database
from tacoq_manager.store.tasks import VIEWS, view_of
from tacoq_protocol.errors import TaskNotFound
from tacoq_protocol.http import ErrorInfo, TaskView, Timeline, TimelineEvent

_ENDED: Final = """
SELECT release, outcome, session, due_at, queued_at, started_at, ended_at, error::text AS error
FROM attempts WHERE task_id = $1 ORDER BY release
"""
_AROUND: Final = """
SELECT
    (SELECT cancel_requested_at FROM tasks WHERE id = $1
     UNION ALL SELECT cancel_requested_at FROM task_history WHERE id = $1 LIMIT 1) AS cancel_requested_at,
    retry.id AS retry_id, retry.created_at AS retry_at
FROM (SELECT $1::uuid AS id) AS task LEFT JOIN LATERAL (
    SELECT t.id, t.created_at FROM tasks AS t WHERE t.retry_of = task.id
    UNION ALL
    SELECT h.id, h.created_at FROM task_history AS h WHERE h.retry_of = task.id
) AS retry ON true
ORDER BY retry.id
"""
_error = msgspec.json.Decoder(ErrorInfo).decode


async def read(database: Database, task_id: UUID) -> Timeline:
    """Return all that is known of a task's life. Raises TaskNotFound, DatabaseUnavailable."""
    # Ended releases first: what ends in between is then told by the task itself.
    ended = await database.read.fetch(_ENDED, task_id)
    rows = await database.read.fetch(VIEWS, [task_id], False)
    if not rows:
        raise TaskNotFound(task_id)
    around = await database.read.fetch(_AROUND, task_id)
    retries = [(row["retry_id"], row["retry_at"]) for row in around if row["retry_id"] is not None]
    events = _events(view_of(rows[0]), ended, around[0]["cancel_requested_at"], retries)
    return Timeline(id=task_id, events=events)


def _events(
    task: TaskView,
    ended: Sequence[asyncpg.Record],
    cancel_requested_at: datetime | None,
    retries: Iterable[tuple[UUID, datetime]],
) -> list[TimelineEvent]:
    """In the order of releases: starts are by the workers' clocks, and would not sort among the others."""
    origin = None if task.retry_of is None else f"retry of {task.retry_of}"
    events = [TimelineEvent(at=task.created_at, event="accepted", detail=origin)]
    since = task.created_at
    for row in ended:
        events += _until_started(since, row["due_at"], row["queued_at"], row["started_at"], _of(row))
        if (row["release"], row["outcome"]) != (task.release, task.state):  # that end is the task's own
            events.append(TimelineEvent(at=row["ended_at"], event=row["outcome"], detail=_detail(row), **_of(row)))
        since = row["ended_at"]
    if task.release not in {row["release"] for row in ended}:
        last = {"release": task.release, "session": task.session}
        events += _until_started(since, task.run_at, task.queued_at, task.started_at, last)
    if cancel_requested_at is not None:
        asked = TimelineEvent(at=cancel_requested_at, event="cancel_requested")
        events.insert(1 + max(n for n, event in enumerate(events) if n == 0 or event.at <= asked.at), asked)
    if task.finished_at is not None:
        released = task.queued_at is not None or task.started_at is not None
        last = {"release": task.release, "session": task.session} if released else {}
        error = None if task.error is None else f"{task.error.type}: {task.error.message}"
        events.append(TimelineEvent(at=task.finished_at, event=task.state, detail=error, **last))
    events += (TimelineEvent(at=at, event="retried", detail=f"as {id}") for id, at in retries)
    return events


def _until_started(
    since: datetime,
    due_at: datetime | None,
    queued_at: datetime | None,
    started_at: datetime | None,
    of: dict[str, Any],
) -> list[TimelineEvent]:
    """The wait until it was due, if it had one, its release, and its start."""
    events = []
    if due_at is not None and due_at > since:
        events.append(TimelineEvent(at=due_at, event="due"))
    if queued_at is not None:
        events.append(TimelineEvent(at=queued_at, event="queued", release=of["release"]))
    if started_at is not None:
        events.append(TimelineEvent(at=started_at, event="started", **of))
    return events


def _of(row: asyncpg.Record) -> dict[str, Any]:
    return {"release": row["release"], "session": row["session"]}


def _detail(row: asyncpg.Record) -> str | None:
    if row["error"] is None:
        return None
    error = _error(row["error"])
    return error.message if row["outcome"] == "returned" else f"{error.type}: {error.message}"
