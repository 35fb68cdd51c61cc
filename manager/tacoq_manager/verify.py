"""Verify: a database in; for each invariant of its rows, which of them break it, out.

A live system changes meanwhile. Each statement sees one moment; a row that may only be on its way is looked at again
until its time is up, and told when it was broken at every look.

What cannot be told from the database is not here: whether a pending task should have been released hangs on slots,
limits, pauses and drains, and `tacoq why` asks those who know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, time, timedelta
from time import monotonic
from typing import Final

import msgspec

from tacoq_manager.store import invariants as store
from tacoq_manager.store import vitals
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.store.invariants import INVARIANTS, Invariant, Row
from tacoq_manager.store.migrate import check_revision
from tacoq_manager.store.reading import Reader, reading

STATEMENT_SECONDS: Final = 60.0
LOOK_AGAIN_SECONDS: Final = 1.0
SHOWN: Final = 10  # rows of one invariant
RETENTION_SLACK: Final = timedelta(hours=1)  # it is seen to every ten minutes, and put off while others hold locks


class Verdict(msgspec.Struct, frozen=True):
    """What became of one invariant. `rows` break it; `unknown` says why nobody can tell."""

    name: str
    holds: str
    rows: list[Row] = []
    unknown: str | None = None

    @property
    def good(self) -> bool:
        return not self.rows and self.unknown is None


async def verify(url: str, *, retention: timedelta, days: int) -> list[Verdict]:
    """Look at every invariant; of final tasks at those whose ids are of the last `days`.

    Raises DatabaseUnavailable when there is no database, OldSchema or UnknownSchema when it is not of this version.
    """
    now = datetime.now(UTC)
    kept = datetime.combine((now - retention).date(), time(), UTC)  # what is older may be gone
    since = max(now - timedelta(days=days), kept)
    async with reading(url, "verify", seconds=STATEMENT_SECONDS) as reader:
        check_revision(await vitals.revision(reader))
        verdicts = [await _look(reader, invariant, since) for invariant in INVARIANTS]
        found = store.overdue_partitions(reader, now - retention - RETENTION_SLACK, now - retention)
        return [*verdicts, await _verdict("retention", "history past its retention is gone", found)]


async def _look(reader: Reader, invariant: Invariant, since: datetime) -> Verdict:
    verdict = await _verdict(invariant.name, invariant.holds, store.broken(reader, invariant, since))
    deadline = monotonic() + invariant.settles_in
    while verdict.rows and monotonic() < deadline:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        again = await _verdict(invariant.name, invariant.holds, store.broken(reader, invariant, since))
        still = {row.subject for row in again.rows}
        verdict = msgspec.structs.replace(again, rows=[row for row in verdict.rows if row.subject in still])
    return verdict


async def _verdict(name: str, holds: str, found: Awaitable[list[Row]]) -> Verdict:
    try:
        return Verdict(name, holds, await found)
    except DatabaseUnavailable as error:
        return Verdict(name, holds, unknown=str(error))


def lines(verdict: Verdict) -> list[str]:
    """Return what people read of it."""
    if verdict.unknown is not None:
        return [f"unknown  {verdict.name}: {verdict.holds}", f"{'':8} {verdict.unknown}"]
    if not verdict.rows:
        return [f"ok       {verdict.name}: {verdict.holds}"]
    count = f"{len(verdict.rows):,}{' or more' if len(verdict.rows) >= store.MOST else ''}"
    told = [f"broken   {verdict.name}: {verdict.holds}; not so of {count}"]
    told += [f"{'':8} {row.subject}: {row.detail}" for row in verdict.rows[:SHOWN]]
    return told + [f"{'':8} … (all with --json)"] * (len(verdict.rows) > SHOWN)
