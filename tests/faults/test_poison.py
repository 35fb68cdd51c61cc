"""A handler that kills its process every time: it alone is blamed. And what may run once only, runs once at most."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tacoq_manager.transitions import MAX_CRASHES
from tacoq_publisher import Publisher, TaskState
from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.handlers import SLOTS, kills_its_session, never_after_a_loss, once, tried_once
from tests.faults.ledger import Ledger
from tests.faults.load import under_load

# The first may die before its start is known: no crash yet, but from then on starts are announced. What ran beside it
# then is suspected as much: while one of them is there, too, a death says nothing. Each comes as far, and runs alone.
MOST_RUNS = MAX_CRASHES + 3
MAY_FAIL = frozenset({TaskState.COMPLETED, TaskState.FAILED})


@pytest.mark.timeout(180)
async def test_task_that_kills_its_process_every_time_is_poison_and_nothing_else_is(
    field: Field, ledger: Ledger, seed: int
) -> None:
    await field.up("worker")
    async with (
        # What runs beside it is suspected, too, and may get its last chance alone, one at a time: a few are enough.
        under_load(field.url, ledger, field.effects, seed=seed, per_second=5) as load,
        Publisher(field.url) as tacoq,
    ):
        for _ in range(MOST_RUNS):
            field.strike("session killed by its handler", SLOTS)
        killer = await ledger.publish(tacoq, kills_its_session.task(), None, ends=frozenset({TaskState.FAILED}))
        view = await killer.wait(90)
        await load.ran(50)
    await check(field, ledger)
    assert view.error is not None
    assert view.error.type == "Poison"
    runs = await field.effects.of(killer.id)
    assert MAX_CRASHES <= len(runs) <= MOST_RUNS
    named = set(re.findall(r"[0-9a-f-]{36}", view.error.message))
    rows = await field.rows("SELECT session FROM workers WHERE pid = ANY ($1)", [ran.pid for ran in runs])
    assert len(named) == MAX_CRASHES
    assert named <= {str(row["session"]) for row in rows}


@pytest.mark.timeout(180)
async def test_what_may_run_once_only_runs_once_at_most(field: Field, ledger: Ledger, seed: int) -> None:
    """Those whose worker dies with them have failed; those that had not begun begin elsewhere."""
    (group, _) = await field.up("worker", "worker")
    async with (
        under_load(field.url, ledger, field.effects, seed=seed, per_second=10) as load,
        Publisher(field.url) as tacoq,
    ):
        for _ in range(2 * SLOTS):
            for handler in (once, never_after_a_loss, tried_once):
                await ledger.publish(tacoq, handler.task(0.5), 0.5, ends=MAY_FAIL)
        group.kill_session()
        await load.ran(20)
    await check(field, ledger)
    rows = await field.rows("SELECT id, kind, state, error->>'type' AS error, release FROM task_history")
    runs = Counter(ran.task_id for ran in await field.effects.runs())
    kinds = {"once", "never_after_a_loss", "tried_once"}
    assert all(runs[row["id"]] <= 1 for row in rows if row["kind"] in kinds)
    failed = {(row["kind"], row["error"]) for row in rows if row["state"] == "failed"}
    assert {kind for kind, _ in failed} >= kinds, "the fault hit none of them"
    assert {error for _, error in failed} == {"WorkerLost"}
