"""The leader row: taken, renewed, given up, all on the database's clock. Its renewal is the leader's one tick."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from tacoq_manager.store.engine import HotConnection
from tacoq_manager.store.prompts import CHANNEL, Prompt, encode

LEASE_SECONDS: Final = 3.0

_RENEW: Final = """
WITH renewed AS (
    UPDATE leader SET expires_at = clock_timestamp() + make_interval(secs => $3)
    WHERE epoch = $1 AND holder = $2 AND expires_at > clock_timestamp()
    RETURNING epoch, limits
)
SELECT epoch, limits,
    extract(epoch FROM (SELECT min(run_at) FROM tasks WHERE state = 'scheduled') - now())::float8 AS due,
    extract(epoch FROM (
        SELECT min(expires_at) FROM tasks WHERE expires_at IS NOT NULL AND state IN ('scheduled', 'pending')
    ) - now())::float8 AS expiry,
    extract(epoch FROM (SELECT min(next_fire_at) FROM schedules) - now())::float8 AS fire
FROM renewed
"""

# Changing the epoch, which is the key, waits for every claim that reads the row FOR KEY SHARE.
_TAKE: Final = """
WITH taken AS (
    UPDATE leader SET epoch = epoch + 1, holder = $1, expires_at = clock_timestamp() + make_interval(secs => $2)
    WHERE holder IS NULL OR expires_at <= clock_timestamp()
    RETURNING epoch, clock_timestamp() AS at
)
SELECT taken.epoch, taken.at, extract(epoch FROM leader.expires_at - clock_timestamp())::float8 AS seconds_left
FROM leader LEFT JOIN taken ON true
"""

_GIVE_UP: Final = f"""
WITH given_up AS (
    UPDATE leader SET holder = NULL, expires_at = clock_timestamp() WHERE epoch = $1 AND holder = $2 RETURNING epoch
)
SELECT pg_notify('{CHANNEL}', $3) FROM given_up
"""


class Tick(NamedTuple):
    """A renewal that held.

    Seconds until the next scheduled task is due, until the next deadline of a waiting one, and until a schedule fires;
    the version of the limits.
    """

    due: float | None
    expiry: float | None
    fire: float | None
    limits: int


class Taken(NamedTuple):
    """The lead, taken. Claims of earlier leaders had ended by `at`, of the database; those to come are later."""

    epoch: int
    at: datetime


async def take(connection: HotConnection, holder: UUID) -> Taken | float:
    """Become leader when nobody is, else return how many seconds the one that there is has left, unless it renews."""
    ((epoch, at, seconds_left),) = await connection.fetch(_TAKE, holder, LEASE_SECONDS)
    return float(seconds_left) if epoch is None else Taken(epoch, at)


async def renew(connection: HotConnection, epoch: int, holder: UUID) -> Tick | None:
    """Hold the lead for LEASE_SECONDS more; None when it is lost."""
    rows = await connection.fetch(_RENEW, epoch, holder, LEASE_SECONDS)
    return Tick(rows[0]["due"], rows[0]["expiry"], rows[0]["fire"], rows[0]["limits"]) if rows else None


async def give_up(connection: HotConnection, epoch: int, holder: UUID) -> None:
    """Let another manager lead at once: whoever listens for prompts hears that nobody does."""
    await connection.fetch(_GIVE_UP, epoch, holder, encode(Prompt(vacant=True)))
