"""Claim: lanes with what each may give in, the heads of them queued and ready to publish out. One statement.

A lane is (queue, kind, fairness key, priority). Taking from lanes that may run keeps a claim at the cost of what it
takes: a scan of the queue would walk over every row that a limit or an unknown kind holds back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from tacoq_manager.store.draw import DRAW, Rated, columns
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.store.snapshot import Snapshot
from tacoq_manager.transitions import MAX_CRASHES
from tacoq_protocol.messages import Fence, Release

CLAIM_BYTES: Final = 8 * 1024 * 1024  # of payloads at once: as much as a publish can be expected to carry in its time
LAST_CHANCE: Final = MAX_CRASHES - 1  # crashes: the next makes it poison

# The leader row is read FOR KEY SHARE: a takeover, which changes the epoch, waits for this statement, and a leader that
# was frozen and wakes up finds its epoch gone and claims nothing; so does one that has not heard of a change of limits.
# UPDATE by a sorted array locks in id order.
# `before` is the size of what stands in front of a task; a payload is not read to be measured.
# `chance` is worked out only when the head of a lane has a task on its last chance: of these one at a time is released
# in a queue, so that it alone is to blame when its worker dies.
# States are said in other words where the planner could take tasks_pending or tasks_in_flight, and walk all of it,
# instead of the primary key or tasks_last_chance.
_HEADS: Final = f"""
WITH lead AS MATERIALIZED (
    SELECT epoch FROM leader
    WHERE epoch = $1 AND holder = $2 AND expires_at > clock_timestamp() AND limits = $8 FOR KEY SHARE
),
lane AS MATERIALIZED (
    SELECT kind, fairness_key, priority, most FROM lead
    CROSS JOIN unnest($3::text[], $4::text[], $5::smallint[], $6::int[]) AS lane (kind, fairness_key, priority, most)
),
chance AS MATERIALIZED (
    SELECT t.id
    FROM lane
    CROSS JOIN LATERAL (
        SELECT id, priority, run_at, seq
        FROM tasks
        WHERE crashes >= {LAST_CHANCE} AND queue = $7 AND state NOT IN ('scheduled', 'queued', 'running')
          AND kind = lane.kind AND fairness_key = lane.fairness_key AND priority = lane.priority
          AND (expires_at IS NULL OR expires_at > now())
    ) AS t
    WHERE NOT EXISTS (
        SELECT FROM tasks WHERE crashes >= {LAST_CHANCE} AND queue = $7 AND state NOT IN ('scheduled', 'pending')
    )
    ORDER BY t.priority DESC, t.run_at, t.seq
    LIMIT 1
),
head AS MATERIALIZED (
    SELECT t.id, sum(t.bytes) OVER (ORDER BY t.priority DESC, t.run_at, t.seq ROWS UNBOUNDED PRECEDING) - t.bytes
        AS before
    FROM lane
    CROSS JOIN LATERAL (
        SELECT id, priority, run_at, seq, octet_length(payload) AS bytes
        FROM tasks
        WHERE state = 'pending' AND queue = $7 AND kind = lane.kind AND fairness_key = lane.fairness_key
          AND priority = lane.priority AND (expires_at IS NULL OR expires_at > now())
          AND (crashes < {LAST_CHANCE} OR id = (SELECT id FROM chance))
        ORDER BY run_at, seq
        LIMIT lane.most
    ) AS t
)"""

_TAKE: Final = f"""
UPDATE tasks
SET state = 'queued', release = release + 1, queued_at = now(), session = NULL, started_at = NULL
WHERE id = ANY (ARRAY(SELECT id FROM head WHERE before < {CLAIM_BYTES} ORDER BY id))
  AND state NOT IN ('scheduled', 'queued', 'running') AND queue = $7
RETURNING id, release, kind, fairness_key, attempt, payload, created_at, timeout, expires_at, announced,
    traceparent, tracestate, priority, run_at, seq, queued_at, max_attempts
"""

_CLAIM: Final = _HEADS + _TAKE

_CLAIM_RATED: Final = f"""
{_HEADS},
claimed AS ({_TAKE}),
taken AS MATERIALIZED (
    SELECT $7::text AS queue, kind, fairness_key, count(*) AS tasks FROM claimed GROUP BY kind, fairness_key
),
rated AS MATERIALIZED (
    SELECT * FROM unnest($9::text[], $10::text[], $11::float8[], $12::float8[]) AS r (queue, kind, rate, key_rate)
),
drawn AS ({DRAW})
SELECT * FROM claimed
"""

# Whoever releases holds this row FOR KEY SHARE. What is committed meanwhile is seen by the next statement only.
_WAIT_FOR_RELEASES: Final = "SELECT epoch FROM leader WHERE epoch = $1 FOR UPDATE"

_UNPUBLISHED: Final = """
WITH lead AS MATERIALIZED (
    SELECT epoch FROM leader WHERE epoch = $1 AND holder = $2 AND expires_at > clock_timestamp() FOR KEY SHARE
)
SELECT t.id, t.release
FROM lead LEFT JOIN LATERAL (
    SELECT id, release FROM tasks
    WHERE state IN ('queued', 'running') AND state = 'queued' AND queue = $3 AND queued_at > $4
) AS t ON true
"""

# What is released by a claim is queued later than it was made.
_ACCEPTED: Final = """
SELECT id, release FROM tasks
WHERE id = ANY ($1) AND state = 'queued' AND queued_at > $2 AND queued_at = created_at
"""

# Loose index scan: one probe per line and one per lane, whatever lies in it.
_LANES: Final = """
WITH RECURSIVE line AS (
    (SELECT queue, kind, fairness_key FROM tasks WHERE state = 'pending'
     ORDER BY queue, kind, fairness_key LIMIT 1)
    UNION ALL
    SELECT following.* FROM line CROSS JOIN LATERAL (
        SELECT t.queue, t.kind, t.fairness_key FROM tasks AS t
        WHERE t.state = 'pending' AND (t.queue, t.kind, t.fairness_key) > (line.queue, line.kind, line.fairness_key)
        ORDER BY t.queue, t.kind, t.fairness_key LIMIT 1
    ) AS following
),
lane AS (
    SELECT line.*, 10::smallint AS priority FROM line
    UNION ALL
    SELECT lane.queue, lane.kind, lane.fairness_key, lower.priority FROM lane CROSS JOIN LATERAL (
        SELECT t.priority FROM tasks AS t
        WHERE t.state = 'pending' AND t.queue = lane.queue AND t.kind = lane.kind
          AND t.fairness_key = lane.fairness_key AND t.priority < lane.priority
        ORDER BY t.priority DESC LIMIT 1
    ) AS lower
)
SELECT queue, kind, fairness_key, priority FROM lane WHERE priority < 10
"""

_IN_FLIGHT: Final = """
SELECT pg_current_snapshot()::text AS seen, counted.*
FROM (SELECT) AS always LEFT JOIN (
    SELECT queue, kind, fairness_key, count(*) AS released
    FROM tasks WHERE state IN ('queued', 'running') GROUP BY queue, kind, fairness_key
) AS counted ON true
"""


class Flow(NamedTuple):
    """A kind of one queue."""

    queue: str
    kind: str


class Line(NamedTuple):
    """Tasks of one fairness key, whatever their priorities: what the key's own limits count together."""

    queue: str
    kind: str
    fairness_key: str


class Lane(NamedTuple):
    """Waiting tasks that stand in one line: released in the order of their accept."""

    queue: str
    kind: str
    fairness_key: str
    priority: int

    @property
    def line(self) -> Line:
        return Line(self.queue, self.kind, self.fairness_key)


class Take(NamedTuple):
    """A lane, and how many may be taken from it."""

    lane: Lane
    most: int


class Claimed(NamedTuple):
    """A task now `queued`, as it goes to a worker, with the lane it came from."""

    lane: Lane
    release: Release


class Batch(NamedTuple):
    """What one claim took, in order. `at`: the database's time of it; None when it took nothing.

    `cut`: more may stand in any of the lanes; otherwise a lane that gave less than it was asked for is empty.
    """

    tasks: list[Claimed]
    at: datetime | None
    cut: bool


async def claim(
    connection: HotConnection,
    *,
    epoch: int,
    holder: UUID,
    limits: int,
    queue: str,
    takes: Sequence[Take],
    rates: Sequence[Rated] = (),
) -> Batch:
    """Move what `takes` asks for of `queue` from pending to queued: of each lane by time due, then order of accept.

    No more after CLAIM_BYTES of payloads. Committed when it returns, with what it draws on `rates`. Nothing is claimed
    unless `holder` leads with `epoch`, and limits have the version `limits`. Raises DatabaseUnavailable: then rows may
    be queued that nobody publishes: see `unpublished`.
    """
    asked = (
        epoch,
        holder,
        [take.lane.kind for take in takes],
        [take.lane.fairness_key for take in takes],
        [take.lane.priority for take in takes],
        [take.most for take in takes],
        queue,
        limits,
    )
    if rates:
        rows = await connection.fetch(_CLAIM_RATED, *asked, *columns(rates))
    else:
        rows = await connection.fetch(_CLAIM, *asked)
    rows.sort(key=lambda row: (-row["priority"], row["run_at"], row["seq"]))
    claimed = [
        Claimed(
            Lane(queue, row["kind"], row["fairness_key"], row["priority"]),
            Release(
                row["id"],
                row["release"],
                row["kind"],
                row["attempt"],
                row["payload"],
                row["created_at"],
                row["timeout"],
                row["expires_at"],
                row["announced"],
                row["traceparent"],
                row["tracestate"],
                row["max_attempts"],
            ),
        )
        for row in rows
    ]
    cut = sum(len(item.release.payload) for item in claimed) >= CLAIM_BYTES
    return Batch(claimed, rows[0]["queued_at"] if rows else None, cut)


async def unpublished(
    connection: HotConnection, *, epoch: int, holder: UUID, queue: str, since: datetime
) -> list[Fence] | None:
    """Return what was claimed in `queue` after `since`: by claims of this leader whose answers were lost.

    Such a claim may still be at work on its old connection: this waits for its end. None unless `holder` leads with
    `epoch`. Raises DatabaseUnavailable.
    """
    await wait_for_releases(connection, epoch)
    rows = await connection.fetch(_UNPUBLISHED, epoch, holder, queue, since)
    return [Fence(*row) for row in rows if row["id"] is not None] if rows else None


async def accepted(connection: HotConnection, epoch: int, ids: Collection[UUID], since: datetime) -> list[Fence]:
    """Return those of `ids` that an accept after `since` released, whose answer was lost: it may still be at work.

    Not what had been accepted before, and came again. Raises DatabaseUnavailable.
    """
    await wait_for_releases(connection, epoch)
    return [Fence(*row) for row in await connection.fetch(_ACCEPTED, list(ids), since)]


async def wait_for_releases(connection: HotConnection, epoch: int) -> None:
    """Return when all statements that release under `epoch`, and had begun, have ended. Raises DatabaseUnavailable."""
    await connection.fetch(_WAIT_FOR_RELEASES, epoch)


async def lanes(connection: HotConnection) -> list[Lane]:
    """Return every lane in which a task is pending."""
    return [Lane(*row) for row in await connection.fetch(_LANES)]


async def in_flight(connection: HotConnection) -> tuple[dict[Line, int], Snapshot]:
    """Count the released tasks of each queue, kind and fairness key; return what was seen, too."""
    rows = await connection.fetch(_IN_FLIGHT)
    counts = {Line(*line): released for _, *line, released in rows if released is not None}
    return counts, Snapshot(rows[0]["seen"])
