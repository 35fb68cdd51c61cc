"""A manager that is told to end under load, again and again: nothing it had claimed waits for a lease."""

from __future__ import annotations

import pytest

from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.ledger import Ledger
from tests.faults.load import under_load

STOPS = 4


@pytest.mark.timeout(240)
async def test_stopped_manager_leaves_no_release_that_no_worker_has(field: Field, ledger: Ledger, seed: int) -> None:
    """The rescue of the next one finds nothing to do, and no run is repeated."""
    await field.up("worker")
    async with under_load(field.url, ledger, field.effects, seed=seed, per_second=40) as load:
        for _ in range(STOPS):
            await field.stop_manager()
            await field.begin_and_wait()
            await load.ran(50)
    verdict = await check(field, ledger)
    assert verdict.extra_runs == 0
    assert not [process for process in field.spawned if "release lost" in process.log()]
