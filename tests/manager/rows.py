"""Rows written straight into the tables: what a test wants to find there, in one statement."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from tacoq_manager.store.engine import Database
from tacoq_protocol.ids import first_id_of, new_task_id
from tacoq_protocol.states import TaskState

_INSERT = """
INSERT INTO {table} (id, kind, queue, state, run_at, fingerprint, payload, created_at{more})
SELECT id, $2, $3, $4, $5, '', $6, $5{values} FROM unnest($1::uuid[]) AS id
"""
_LIVE = _INSERT.format(table="tasks", more="", values="")
_FINAL = _INSERT.format(
    table="task_history", more=", seq, finished_at, result, error, release", values=", 0, $7, $8, $9::text::json, 1"
)


def id_at(moment: datetime, number: int = 0) -> UUID:
    """A task id made at `moment`."""
    return UUID(int=first_id_of(moment).int | 0x7 << 76 | 0b10 << 62 | number)


def new_ids(count: int) -> list[UUID]:
    return [new_task_id() for _ in range(count)]


async def insert_live(
    database: Database,
    ids: list[UUID],
    *,
    state: TaskState = TaskState.PENDING,
    kind: str = "add",
    queue: str = "default",
    payload: bytes = b'{"x":1}',
    run_at: datetime,
) -> None:
    await database.settle.fetch(_LIVE, ids, kind, queue, state, run_at, payload)


async def insert_final(
    database: Database,
    ids: list[UUID],
    *,
    finished_at: datetime,
    state: TaskState = TaskState.COMPLETED,
    kind: str = "add",
    queue: str = "default",
    payload: bytes = b'{"x":1}',
    result: bytes | None = b"3",
    error: str | None = None,
) -> None:
    created = finished_at - timedelta(seconds=1)
    await database.settle.fetch(_FINAL, ids, kind, queue, state, created, payload, finished_at, result, error)


async def finish(database: Database, ids: list[UUID], *, result: bytes = b"3") -> None:
    """Move live tasks to the history as completed, in one transaction, as settle does."""
    await database.settle.fetch(
        """
        WITH gone AS (DELETE FROM tasks WHERE id = ANY ($1::uuid[]) RETURNING *)
        INSERT INTO task_history (id, seq, kind, queue, state, run_at, fingerprint, payload, finished_at, result)
        SELECT id, seq, kind, queue, 'completed', run_at, fingerprint, payload, now(), $2 FROM gone
        """,
        ids,
        result,
    )
