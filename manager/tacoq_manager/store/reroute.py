"""Reroute: kinds that a queue's workers now know in; waiting tasks that were published without a queue moved to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import HotConnection

_REROUTE: Final = """
WITH moved AS (
    UPDATE tasks SET queue = $1
    WHERE state IN ('scheduled', 'pending') AND NOT queue_given AND queue <> $1 AND kind = ANY ($2::text[])
    RETURNING kind, fairness_key, state
)
SELECT DISTINCT kind, fairness_key FROM moved WHERE state = 'pending'
"""


async def reroute(connection: HotConnection, queue: str, kinds: Sequence[str]) -> list[Lane]:
    """Move waiting tasks of `kinds` whose publisher named no queue to `queue`; return the lanes that got pending ones.

    Committed when it returns. Looks at every live task: for the rare moment at which workers bring new kinds.
    """
    rows = await connection.fetch(_REROUTE, queue, kinds)
    return [Lane(queue, row["kind"], row["fairness_key"]) for row in rows]
