"""Retention: how long things are kept in; what is older gone: history by the day, sessions, kinds out of use, stats.

History's partitions are made here, too, a week ahead.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tacoq_manager.store.engine import Database
from tacoq_manager.store.history import drop_partitions, ensure_partitions
from tacoq_manager.store.registry import forget
from tacoq_manager.store.stats import prune

STEP_SECONDS: Final = 600.0
UNUSED_KINDS: Final = timedelta(days=30)  # however short the retention: who publishes one meets its schema and queue


async def step(database: Database, *, retention: timedelta, now: datetime | None = None) -> int:
    """Make what is missing and drop what is too old; return how many partitions and rows. Any manager may do it."""
    now = now or datetime.now(UTC)
    made = await ensure_partitions(database, now.date())
    dropped = await drop_partitions(database, now - retention)
    forgotten = await forget(database, sessions=now - retention, kinds_seen=now - UNUSED_KINDS)
    return made + dropped + forgotten + await prune(database)
