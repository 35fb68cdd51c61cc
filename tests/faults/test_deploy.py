"""A rolling deploy under load: new workers know kinds that old ones do not; nothing fails, nothing is discarded."""

from __future__ import annotations

import pytest

from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.ledger import Ledger
from tests.faults.load import under_load


@pytest.mark.timeout(180)
async def test_kinds_that_only_new_workers_know_wait_for_the_old_to_go(field: Field, ledger: Ledger, seed: int) -> None:
    """One step forward, one back, when releases of new kinds may be under way to an old worker; then all the way."""
    old = await field.up("older", "older")
    async with under_load(field.url, ledger, field.effects, seed=seed) as load:
        await field.add_worker("worker")
        await field.joined(3)
        for group in old:
            group.terminate()
        await load.ran(60)
        back = await field.add_worker("older")
        await field.joined(2)
        await load.ran(30)
        await field.add_worker("worker")
        back.terminate()
        await load.ran(60)
    verdict = await check(field, ledger)
    assert verdict.extra_runs == 0
    asked_for = "SELECT FROM attempts WHERE outcome NOT IN ('completed', 'returned') AND error->>'type' <> 'ValueError'"
    assert not await field.rows(asked_for)
    assert all(group.process.wait() == 0 for group in (*old, back))
