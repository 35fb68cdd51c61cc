"""Doubtful releases: live sessions in, rows that nobody may be working on out. The rescue decides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from asyncpg import Record

from tacoq_manager.store.engine import HotConnection
from tacoq_protocol.messages import Fence

# By `queued_at`, also of runs: their starts are told by the workers' clocks.
_DOUBTFUL: Final = """
SELECT id, release, queue, kind, state = 'running' AS started, session, crashes,
    queued_at < now() - make_interval(secs => $2) AS old
FROM tasks
WHERE state IN ('queued', 'running')
  AND (queued_at < now() - make_interval(secs => $2) OR id = ANY ($3::uuid[])
       OR state = 'running' AND session <> ALL ($1::uuid[]))
"""

_OF_SESSION: Final = """
SELECT id, release, queue, kind, true AS started, session, crashes, true AS old
FROM tasks WHERE state IN ('queued', 'running') AND queue = $2 AND state = 'running' AND session = $1
"""

_RELEASED: Final = """
SELECT id, release, queue, kind, state = 'running' AS started, session, crashes, true AS old
FROM tasks WHERE state IN ('queued', 'running')
"""


class Doubtful(NamedTuple):
    """A released task. `session` reported its start; None when no start was reported. `old`: released long ago."""

    fence: Fence
    queue: str
    kind: str
    started: bool
    session: UUID | None
    crashes: int
    old: bool


async def doubtful(
    connection: HotConnection, live: Collection[UUID], seconds: float, named: Collection[UUID]
) -> list[Doubtful]:
    """Return released tasks of sessions not `live`, those released more than `seconds` ago, and the `named`."""
    return _read(await connection.fetch(_DOUBTFUL, list(live), seconds, list(named)))


async def of_session(connection: HotConnection, session: UUID, queue: str) -> list[Doubtful]:
    """Return what `session` has reported to run."""
    return _read(await connection.fetch(_OF_SESSION, session, queue))


async def all_released(connection: HotConnection) -> list[Doubtful]:
    """Return every released task: after a restart with an in-process broker, nobody can be working on any."""
    return _read(await connection.fetch(_RELEASED))


def _read(rows: Sequence[Record]) -> list[Doubtful]:
    return [
        Doubtful(Fence(id, release), queue, kind, started, session, crashes, old)
        for id, release, queue, kind, started, session, crashes, old in rows
    ]
