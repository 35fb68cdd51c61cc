"""Checker: a field that was healed in; its verdict, written to the file of verdicts and asserted, out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.verify import lines, verify
from tacoq_publisher import TaskState
from tests.faults.field import Field
from tests.faults.form import FORM
from tests.faults.ledger import Ledger
from tests.faults.verdict import Attempt, Final, Stored, Verdict, judge
from tests.support.eventually import eventually

SECONDS = 90.0  # for all that is left to end


async def check(field: Field, ledger: Ledger, *, seconds: float = SECONDS, poison: bool = False) -> Verdict:
    """Wait until nothing is live any more, then compare what was accepted, stored and run. Raises AssertionError.

    `poison`: so many faults that one task may have been hit as often as makes it poison, by what is on record.

    The verdict stands in the file of verdicts before anything is raised.
    """

    async def all_final() -> bool:
        return not await field.rows("SELECT FROM tasks LIMIT 1")

    with suppress(AssertionError):  # what is stuck then is in the verdict
        await eventually(all_final, seconds, interval=0.2)
    runs = await field.effects.runs()
    struck = field.struck
    entries, kept = list(ledger.entries.values()), await stored(field)
    verdict = judge(entries, kept, runs, faults=len(struck), slots=struck.slots, poison=poison)
    verdict.wrong += await broken(field)
    if FORM.verdicts is not None:
        with FORM.verdicts.open("a") as lines:
            lines.write(f"{verdict.line()}\n")
    print(f"{verdict.line()} after: {struck}")
    assert verdict.good, f"{verdict.line()}\n" + "\n".join(verdict.wrong) + f"\nafter: {struck}"
    return verdict


async def broken(field: Field) -> list[str]:
    """Return what `tacoq verify` finds broken. Raises DatabaseUnavailable."""
    verdicts = await verify(field.database, retention=timedelta(days=30), days=1)
    return ["\n".join(lines(verdict)) for verdict in verdicts if verdict.rows]


@asynccontextmanager
async def verified(field: Field) -> AsyncIterator[list[str]]:
    """Look for what is broken while the block lasts, whatever breaks there; the list has it afterwards."""
    found: list[str] = []

    async def watch() -> None:
        while True:
            with suppress(DatabaseUnavailable):
                found.extend(await broken(field))
            await asyncio.sleep(1.0)

    watching = asyncio.create_task(watch())
    try:
        yield found
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def stored(field: Field) -> Stored:
    """Read what the manager's database has."""
    # History is read after the live rows: what moves meanwhile would show twice, never not at all.
    live = await field.rows("SELECT id, state FROM tasks ORDER BY seq")
    final = await field.rows(
        "SELECT id, state, release, attempt, result, error->>'type', finished_at FROM task_history ORDER BY seq"
    )
    attempts = await field.rows(
        "SELECT task_id, release, outcome, error->>'type' FROM attempts WHERE outcome <> 'returned' ORDER BY release"
    )
    return Stored(
        live=[(row[0], TaskState(row[1])) for row in live],
        final=[Final(row[0], TaskState(row[1]), *row[2:]) for row in map(tuple, final)],
        attempts=[Attempt(*row) for row in attempts],
    )
