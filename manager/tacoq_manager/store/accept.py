"""Accept: validated tasks in, one call and one transaction, what became of each out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from tacoq_manager.store.claim import Lane
from tacoq_manager.store.columns import sparse
from tacoq_manager.store.draw import Rated, columns
from tacoq_manager.store.engine import HotConnection
from tacoq_protocol.states import TaskState

_ACCEPT: Final = """
SELECT id, state, duplicate, created_at, expires_at FROM pg_temp.tacoq_accept(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24,
    $25, $26, $27, $28, $29
)
"""

_STATE: Final = {state.value: state for state in TaskState}

_KNOWN: Final = """
SELECT t.id FROM unnest($1::uuid[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT tasks.id FROM tasks WHERE tasks.id = wanted.id
    UNION ALL
    SELECT h.id FROM task_history AS h WHERE h.id = wanted.id
    UNION ALL
    SELECT a.id FROM absorbed AS a WHERE a.id = wanted.id
) AS t
"""


class Row(NamedTuple):
    """A task as it is stored. `delay` and `expires_in` are seconds from now on the database's clock."""

    id: UUID
    kind: str
    queue: str
    priority: int
    fairness_key: str
    payload: bytes
    fingerprint: bytes
    delay: float | None
    run_at: datetime | None
    expires_in: float | None
    expires_at: datetime | None
    max_attempts: int | None
    timeout: float | None
    retry_of: UUID | None
    traceparent: str | None
    tracestate: str | None
    queue_given: bool


class Lead(NamedTuple):
    """What a leader may have released as it is accepted: nothing, once another one leads, or limits were changed.

    `lines`: the place in `lanes`, from 1, of each row that may be; None for all others. `limits`: their version.
    """

    epoch: int
    holder: UUID
    limits: int
    lanes: Sequence[Lane]
    lines: Sequence[int | None]
    rates: Sequence[Rated] = ()


class Stored(NamedTuple):
    """What Postgres holds for an id now. `duplicate`: it was accepted before, with the same content.

    Not a duplicate and queued: this very call released it, for the first time.
    """

    state: TaskState
    duplicate: bool
    created_at: datetime
    expires_at: datetime | None


class ContentConflict(Exception):
    """Ids that are known with other content; nothing of the call was stored."""

    def __init__(self, ids: frozenset[UUID]) -> None:
        super().__init__(f"{len(ids)} ids are known with other content")
        self.ids = ids


async def accept(connection: HotConnection, rows: Sequence[Row], lead: Lead | None = None) -> dict[UUID, Stored]:
    """Store `rows`, in their order, and say what is stored for each id; committed when it returns.

    What `lead` allows is queued, unless something is pending in its lane; the caller then publishes it.

    The caller sorts by id, so that two batches with the same ids wait for each other and cannot deadlock. Ids that are
    known change nothing. Raises ContentConflict, or asyncpg's error when a value is refused: nothing was stored. Raises
    DatabaseUnavailable: perhaps committed; the same call again is safe.
    """
    try:
        given = map(sparse, zip(*rows, strict=True))
        records = await connection.fetch(_ACCEPT, *given, *released(rows, lead))
    except asyncpg.PostgresError as error:
        if error.sqlstate != "TQ409":
            raise
        raise ContentConflict(frozenset(UUID(id) for id in str(error.detail).split(","))) from error
    return {id: Stored(_STATE[state], duplicate, *times) for id, state, duplicate, *times in records}


def released(rows: Sequence[Row], lead: Lead | None) -> tuple[object, ...]:
    """Return the arguments that say what of `rows` may be released."""
    if lead is None:
        return (None, [], [], [], [], None, None, None, *columns(()))
    lanes = lead.lanes
    return (
        list(lead.lines),
        [lane.queue for lane in lanes],
        [lane.kind for lane in lanes],
        [lane.fairness_key for lane in lanes],
        [lane.priority for lane in lanes],
        lead.epoch,
        lead.holder,
        lead.limits,
        *columns(lead.rates),
    )


async def known(connection: HotConnection, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of `ids` that were accepted before. Raises DatabaseUnavailable."""
    return {row["id"] for row in await connection.fetch(_KNOWN, ids)}
