"""The prune step: keys past their time in, nothing of them left out. Leader only; a key is free before it is pruned."""

from __future__ import annotations

from typing import Final

from tacoq_manager.store import prune as store
from tacoq_manager.store.engine import HotConnection

STEP_SECONDS: Final = 10.0
MOST: Final = 1_000  # in one statement: others wait for the connection meanwhile


async def step(connection: HotConnection) -> int:
    """Prune all that is past its time now, a part at a time; return how many."""
    pruned = 0
    while part := await store.prune(connection, MOST):
        pruned += part
    return pruned
