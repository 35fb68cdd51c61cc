"""Reroute: kinds that a queue's workers now know in; waiting tasks that were published without a queue moved to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final
from uuid import UUID

from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import HotConnection

MOST: Final = 5_000  # in one statement: the leader renews between two of them

_REROUTE: Final = """
UPDATE tasks SET queue = $1
WHERE id = ANY (ARRAY(
    SELECT id FROM tasks
    WHERE id > $3 AND state IN ('scheduled', 'pending') AND NOT queue_given AND queue <> $1 AND kind = ANY ($2::text[])
    ORDER BY id LIMIT $4
)) AND state IN ('scheduled', 'pending')
RETURNING id, kind, fairness_key, priority
"""


async def reroute(connection: HotConnection, queue: str, kinds: Sequence[str]) -> AsyncIterator[set[Lane]]:
    """Move waiting tasks of `kinds` whose publisher named no queue to `queue`; yield the lanes they went to.

    A part at a time, each committed when it is told. Looks at every live task: for the rare moment at which workers
    bring new kinds.
    """
    last = UUID(int=0)
    while rows := await connection.fetch(_REROUTE, queue, kinds, last, MOST):
        last = max(row["id"] for row in rows)
        yield {Lane(queue, kind, fairness_key, priority) for _, kind, fairness_key, priority in rows}
