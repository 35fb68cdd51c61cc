"""Limits: what is set for queues and kinds, holds and tokens, in their rows. A change raises their version.

The version stands in the leader's row, and a claim names the one it was decided by. So what a change forbids is not
claimed after it was answered, however late the leader hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import func, null, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from tacoq_manager.buckets import Drawn, Of
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.engine import Database, HotConnection
from tacoq_manager.store.faults import database_faults
from tacoq_manager.store.schema import holds, kinds, queues
from tacoq_protocol.limits import KindLimits, QueueLimits
from tacoq_protocol.messages import Fence

_VERSION: Final = "SELECT limits FROM leader"
_QUEUES: Final = "SELECT name, paused, limits FROM queues WHERE paused OR limits IS NOT NULL"
_KINDS: Final = "SELECT queue, name, limits FROM kinds WHERE limits IS NOT NULL"
_HOLDS: Final = """
SELECT queue, kind, fairness_key, extract(epoch FROM until - clock_timestamp())::float8 AS seconds
FROM holds WHERE until > clock_timestamp()
"""
_BUCKETS: Final = """
SELECT queue, kind, fairness_key, tokens, as_of, extract(epoch FROM clock_timestamp() - as_of)::float8 AS age, rate
FROM buckets
"""

# A release that is not open any more says nothing. Only what ends later than it did is a change.
# All rows are locked before the leader's is, as by everybody: EXISTS would look at the first, and lock the others last.
_HOLD: Final = """
WITH asked AS MATERIALIZED (
    SELECT t.queue, t.kind, CASE WHEN u.of_key THEN t.fairness_key END AS fairness_key, max(u.seconds) AS seconds
    FROM unnest($1::uuid[], $2::int[], $3::float8[], $4::boolean[]) AS u (id, release, seconds, of_key)
    CROSS JOIN LATERAL (
        SELECT queue, kind, fairness_key FROM tasks WHERE id = u.id AND release = u.release OFFSET 0
    ) AS t
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
),
held AS (
    INSERT INTO holds (queue, kind, fairness_key, until)
    SELECT queue, kind, fairness_key, now() + make_interval(secs => seconds) FROM asked
    ON CONFLICT (queue, kind, fairness_key) DO UPDATE SET until = excluded.until WHERE holds.until < excluded.until
    RETURNING queue, kind, fairness_key, until
),
changed AS (
    UPDATE leader SET limits = limits + 1 WHERE (SELECT count(*) FROM held) > 0 RETURNING limits
)
SELECT queue, kind, fairness_key, extract(epoch FROM until - clock_timestamp())::float8 AS seconds,
    (SELECT limits FROM changed) AS version
FROM held
"""

# What others lock is left to the next time: a claim draws from several buckets in its own order.
_PRUNE: Final = """
WITH full_again AS MATERIALIZED (
    SELECT ctid FROM buckets
    WHERE tokens + rate * extract(epoch FROM now() - as_of) >= greatest(1, rate) FOR UPDATE SKIP LOCKED
),
over AS MATERIALIZED (SELECT ctid FROM holds WHERE until <= now() FOR UPDATE SKIP LOCKED),
unlimited AS (DELETE FROM buckets WHERE ctid = ANY (ARRAY(SELECT ctid FROM full_again))),
open AS (DELETE FROM holds WHERE ctid = ANY (ARRAY(SELECT ctid FROM over)))
SELECT (SELECT count(*) FROM full_again) + (SELECT count(*) FROM over) AS pruned
"""


class Held(NamedTuple):
    """A kind, or one key of it, from which nothing is released for so many seconds more."""

    of: Of
    seconds: float


class Hold(NamedTuple):
    """What the report of a release asks for: hold its kind back, or with `of_key` its fairness key alone."""

    fence: Fence
    seconds: float
    of_key: bool


class HoldRow(NamedTuple):
    """A kind that is held back, or, unless that is None, one of its fairness keys."""

    queue: str
    kind: str
    fairness_key: str | None
    until: datetime


class QueueRow(NamedTuple):
    """What is set for a queue."""

    paused: bool = False
    limits: QueueLimits = QueueLimits()


class Loaded(NamedTuple):
    """All that is set and held, by a version that is not newer than it."""

    version: int
    queues: dict[str, QueueRow]
    kinds: dict[Flow, KindLimits]
    holds: list[Held]


async def version(connection: HotConnection) -> int:
    """Return the version of the limits. Raises DatabaseUnavailable."""
    (row,) = await connection.fetch(_VERSION)
    found: int = row["limits"]
    return found


async def load(connection: HotConnection) -> Loaded:
    """Raises DatabaseUnavailable."""
    before = await version(connection)
    return Loaded(
        before,
        {row["name"]: _queue_row(row["paused"], row["limits"]) for row in await connection.fetch(_QUEUES)},
        {
            Flow(row["queue"], row["name"]): KindLimits.model_validate_json(row["limits"])
            for row in await connection.fetch(_KINDS)
        },
        [Held(Of(*of), seconds) for *of, seconds in await connection.fetch(_HOLDS)],
    )


async def load_buckets(connection: HotConnection) -> list[Drawn]:
    """Return all that was drawn on. Raises DatabaseUnavailable."""
    rows = await connection.fetch(_BUCKETS)
    return [Drawn(Of(queue, kind, key), *rest) for queue, kind, key, *rest in rows]


async def hold(connection: HotConnection, asked: Sequence[Hold]) -> tuple[list[Held], int]:
    """Hold back what these reports ask for; return what is held for longer now than before, and the version of that.

    Durable when it returns. Raises DatabaseUnavailable: the same again is safe.
    """
    rows = await connection.fetch(
        _HOLD,
        [hold.fence.task_id for hold in asked],
        [hold.fence.release for hold in asked],
        [hold.seconds for hold in asked],
        [hold.of_key for hold in asked],
    )
    held = [Held(Of(row["queue"], row["kind"], row["fairness_key"]), row["seconds"]) for row in rows]
    return held, rows[0]["version"] if rows else 0


async def prune(connection: HotConnection) -> int:
    """Forget buckets that are full again and holds that are over; return how many. Raises DatabaseUnavailable."""
    (row,) = await connection.fetch(_PRUNE)
    pruned: int = row["pruned"]
    return pruned


async def queue_rows(database: Database) -> dict[str, QueueRow]:
    """Return what is set, by queue. Raises DatabaseUnavailable."""
    with database_faults():
        async with database.engine.connect() as connection:
            rows = (await connection.execute(text(_QUEUES))).mappings().all()
    return {row["name"]: _queue_row(row["paused"], row["limits"]) for row in rows}


async def pause(database: Database, queue: str, paused: bool) -> None:
    """Pause or resume; when it returns, no claim of a paused queue will take anything. Raises DatabaseUnavailable."""
    values = {"name": queue, "paused": paused}
    statement = insert(queues).values(values).on_conflict_do_update(index_elements=["name"], set_={"paused": paused})
    with database_faults():
        async with database.engine.begin() as connection:
            await connection.execute(statement)
            await _changed(connection)


async def set_queue(database: Database, queue: str, change: Callable[[QueueLimits], QueueLimits]) -> None:
    """Set the limits of a queue, by those it has. Raises DatabaseUnavailable, or as `change`."""
    its = queues.c.name == queue
    with database_faults():
        async with database.engine.begin() as connection:
            await connection.execute(insert(queues).values(name=queue).on_conflict_do_nothing())
            old = await connection.scalar(select(queues.c.limits).where(its).with_for_update())
            new = change(QueueLimits.model_validate(old or {})).model_dump(exclude_defaults=True)
            await connection.execute(update(queues).where(its).values(limits=new or null()))
            await _changed(connection)


async def set_kind(database: Database, flow: Flow, change: Callable[[KindLimits], KindLimits]) -> None:
    """Set the override of a kind that is known, by the one it has. Raises DatabaseUnavailable."""
    its = (kinds.c.queue == flow.queue, kinds.c.name == flow.kind)
    with database_faults():
        async with database.engine.begin() as connection:
            old = await connection.scalar(select(kinds.c.limits).where(*its).with_for_update())
            new = change(KindLimits.model_validate(old or {})).model_dump(exclude_none=True)
            await connection.execute(update(kinds).where(*its).values(limits=new or null()))
            await _changed(connection)


async def let_go(database: Database, flow: Flow) -> None:
    """End all holds of a kind and of its keys. Raises DatabaseUnavailable."""
    its = (holds.c.queue == flow.queue, holds.c.kind == flow.kind)
    with database_faults():
        async with database.engine.begin() as connection:
            # In the order in which `hold` locks them: a delete alone goes by the heap.
            await connection.execute(select(holds.c.until).where(*its).order_by(holds.c.fairness_key).with_for_update())
            await connection.execute(holds.delete().where(*its))
            await _changed(connection)


async def list_holds(database: Database) -> list[HoldRow]:
    """Return all holds that are not over, the longest first. Raises DatabaseUnavailable."""
    statement = select(holds).where(holds.c.until > func.now()).order_by(holds.c.until.desc())
    with database_faults():
        async with database.engine.connect() as connection:
            return [HoldRow(*row) for row in await connection.execute(statement)]


async def _changed(connection: AsyncConnection) -> None:
    """Raise the version, when the claims that are under way have ended: they hold the row FOR KEY SHARE."""
    await connection.execute(text("SELECT FROM leader FOR UPDATE"))
    await connection.execute(text("UPDATE leader SET limits = limits + 1"))


def _queue_row(paused: bool, limits: str | Mapping[str, Any] | None) -> QueueRow:
    """`limits` is text as asyncpg has it, and read as SQLAlchemy has it."""
    given = msgspec.json.decode(limits) if isinstance(limits, str) else limits
    return QueueRow(paused, QueueLimits.model_validate(given or {}))
