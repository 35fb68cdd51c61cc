"""Doubtful releases: live sessions in, rows that nobody may be working on out. The rescue decides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from asyncpg import Record

from tacoq_manager.store.engine import HotConnection
from tacoq_protocol.messages import Fence

_DOUBTFUL: Final = """
SELECT id, release, queue, kind, state = 'running' AS started, session
FROM tasks
WHERE state IN ('queued', 'running') AND release > 0
  AND (CASE state
       WHEN 'running' THEN session <> ALL ($1::uuid[]) OR started_at < now() - make_interval(secs => $2)
       ELSE queued_at < now() - make_interval(secs => $2) END)
"""

_OF_SESSION: Final = """
SELECT id, release, queue, kind, true AS started, session
FROM tasks WHERE state IN ('queued', 'running') AND queue = $2 AND state = 'running' AND session = $1
"""

_RELEASED: Final = """
SELECT id, release, queue, kind, state = 'running' AS started, session
FROM tasks WHERE state IN ('queued', 'running')
"""


class Doubtful(NamedTuple):
    """A released task. `session` reported its start; None when no start was reported."""

    fence: Fence
    queue: str
    kind: str
    started: bool
    session: UUID | None


async def doubtful(connection: HotConnection, live: Collection[UUID], seconds: float) -> list[Doubtful]:
    """Return released tasks of sessions that are not `live`, and those released or started more than `seconds` ago."""
    return _read(await connection.fetch(_DOUBTFUL, list(live), seconds))


async def of_session(connection: HotConnection, session: UUID, queue: str) -> list[Doubtful]:
    """Return what `session` has reported to run."""
    return _read(await connection.fetch(_OF_SESSION, session, queue))


async def all_released(connection: HotConnection) -> list[Doubtful]:
    """Return every released task: after a restart with an in-process broker, nobody can be working on any."""
    return _read(await connection.fetch(_RELEASED))


def _read(rows: Sequence[Record]) -> list[Doubtful]:
    return [
        Doubtful(Fence(row["id"], row["release"]), row["queue"], row["kind"], row["started"], row["session"])
        for row in rows
    ]
