"""Accept of tasks with keys: validated tasks in, one call and one transaction, the task that answers each out.

Tasks are taken one after the other, because what a key says of one depends on what became of those before. Who looks
at keys holds their locks until its commit, and locks are taken in one order, before any row: two managers cannot miss
each other's tasks, nor wait for each other in a circle. The unique indexes would refuse what got through all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from tacoq_manager.store.accept import ContentConflict, Lead, Row, Stored, released
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.columns import sparse
from tacoq_manager.store.engine import HotConnection
from tacoq_protocol.http import OnConflict
from tacoq_protocol.states import TaskState


class Keys(NamedTuple):
    """What a task is compared by. `unique` is of its kind and fields; `digest` of its payload."""

    unique: bytes | None = None
    on_conflict: OnConflict = "return"
    idempotency: str | None = None
    window: float | None = None  # seconds
    digest: bytes | None = None


NO_KEYS: Final = Keys()

_PARAMETERS: Final = len(Row._fields) + len(Keys._fields) + len(released((), None))
_ACCEPT: Final = f"""
SELECT id, state, duplicate, created_at, expires_at, differs, replaced, left_queue, left_key, left_priority
FROM pg_temp.tacoq_accept_keyed({", ".join(f"${place}" for place in range(1, _PARAMETERS + 1))})
"""


class Answered(NamedTuple):
    """The task that a publish is answered with, its own or one that was there, and what is stored of it.

    `differs`: the payload that its idempotency key came with first was another one. `replaced`: it was there, and has
    what this publish asked for now. `left`: the lane in which it was pending before.
    """

    id: UUID
    stored: Stored
    differs: bool
    replaced: bool
    left: Lane | None


class KeysTaken(Exception):
    """Tasks to be rejected, by id, each with the live task that has its unique key; nothing of the call was stored."""

    def __init__(self, holders: Mapping[UUID, UUID]) -> None:
        super().__init__(f"{len(holders)} unique keys have a live task")
        self.holders = holders


async def accept(
    connection: HotConnection, rows: Sequence[Row], keys: Mapping[UUID, Keys], lead: Lead | None = None
) -> dict[UUID, Answered]:
    """Store `rows`, in their order, as their `keys` (by id) have it; say what answers each. Committed when it returns.

    What `lead` allows is queued, as by the other accept, but for what has a unique key: a replace in the same batch
    could not touch it any more.

    Ids that were answered before change nothing, whoever has their keys now. Raises ContentConflict, KeysTaken, or
    asyncpg's error when a value is refused: nothing was stored. Raises DatabaseUnavailable: perhaps committed; the
    same call again is safe.
    """
    keyed = [keys.get(row.id, NO_KEYS) for row in rows]
    columns = map(sparse, (*zip(*rows, strict=True), *zip(*keyed, strict=True)))
    if lead is not None:
        lines = [None if of.unique else line for of, line in zip(keyed, lead.lines, strict=True)]
        lead = lead._replace(lines=lines)
    try:
        records = await connection.fetch(_ACCEPT, *columns, *released(rows, lead))
    except asyncpg.PostgresError as error:
        match error.sqlstate:
            case "TQ409":
                raise ContentConflict(frozenset(UUID(id) for id in str(error.detail).split(","))) from error
            case "TQ410":
                pairs = (pair.split("=") for pair in str(error.detail).split(","))
                raise KeysTaken({UUID(id): UUID(holder) for id, holder in pairs}) from error
            case _:
                raise
    return {row.id: _answered(row, record) for row, record in zip(rows, records, strict=True)}


def _answered(row: Row, record: asyncpg.Record) -> Answered:
    id, state, duplicate, created_at, expires_at, differs, replaced, queue, key, priority = record
    left = Lane(queue, row.kind, key, priority) if replaced and queue is not None else None
    return Answered(id, Stored(TaskState(state), duplicate, created_at, expires_at), differs, replaced, left)
