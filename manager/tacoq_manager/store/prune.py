"""Prune: keys whose time has passed in, their rows gone out, so many at a time."""

from __future__ import annotations

from typing import Final

from tacoq_manager.store.engine import HotConnection

# SKIP LOCKED: a row that is held is being given to another task, and is not old any more.
_PRUNE: Final = """
WITH old_keys AS (
    DELETE FROM idempotency AS i USING (
        SELECT kind, key FROM idempotency WHERE expires_at <= now() ORDER BY expires_at LIMIT $1
        FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE i.kind = old.kind AND i.key = old.key
    RETURNING 1
),
old_publishes AS (
    DELETE FROM absorbed AS a USING (
        SELECT id FROM absorbed WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE a.id = old.id
    RETURNING 1
)
SELECT (SELECT count(*) FROM old_keys) + (SELECT count(*) FROM old_publishes) AS pruned
"""


async def prune(connection: HotConnection, most: int) -> int:
    """Delete up to `most` idempotency keys past their window, and as many absorbed publishes; return how many.

    The oldest first. Raises DatabaseUnavailable.
    """
    (row,) = await connection.fetch(_PRUNE, most)
    pruned: int = row["pruned"]
    return pruned
