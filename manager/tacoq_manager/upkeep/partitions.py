"""Partitions: the date in; history's partitions made a week ahead, those older than the retention dropped, out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tacoq_manager.store.engine import Database
from tacoq_manager.store.history import drop_partitions, ensure_partitions

STEP_SECONDS: Final = 600.0


async def step(database: Database, *, retention: timedelta, now: datetime | None = None) -> int:
    """Make what is missing and drop what is too old; return how many partitions that were. Any manager may do it."""
    now = now or datetime.now(UTC)
    made = await ensure_partitions(database, now.date())
    return made + await drop_partitions(database, now - retention)
