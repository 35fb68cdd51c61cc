"""A worker stands still for twice a lease and goes on: a late outcome counts unless its task was released again."""

from __future__ import annotations

import asyncio

import pytest

from tacoq_publisher import Publisher
from tests.faults.checker import check, stored
from tests.faults.field import LEASE, Field
from tests.faults.handlers import nap
from tests.faults.ledger import Ledger
from tests.faults.load import under_load
from tests.support.eventually import eventually


@pytest.mark.timeout(180)
async def test_runs_of_a_worker_that_stood_still_never_count_beside_their_repetition(
    field: Field, ledger: Ledger, seed: int
) -> None:
    """The other worker repeats them meanwhile; what the first then reports is stale."""
    (group, _) = await field.up("worker", "worker")
    async with under_load(field.url, ledger, field.effects, seed=seed) as load:
        await load.ran(100)
        group.freeze()
        await asyncio.sleep(2 * LEASE)
        group.thaw()
        await load.ran(100)
    verdict = await check(field, ledger)
    assert verdict.extra_runs > 0, "nothing was repeated: the fault hit nobody"


@pytest.mark.timeout(180)
async def test_late_outcome_counts_when_its_task_was_not_released_again(field: Field, ledger: Ledger) -> None:
    """The only worker that knows the kind stands still: its run is lost, and ended by the outcome that comes late."""
    (group,) = await field.up("worker")
    async with Publisher(field.url) as tacoq:
        handle = await ledger.publish(tacoq, nap.task(3.0), 3.0)

        await eventually(lambda: is_in(field, "running"), what="the run is reported")
        group.freeze()
        await field.add_worker("older")  # while it lives the kind is released to nobody
        await eventually(lambda: is_in(field, "pending"), 4 * LEASE, what="the run is taken for lost")
        group.thaw()
        await handle.result(30)
    await check(field, ledger)
    (final,) = (await stored(field)).final
    (run,) = await field.effects.of(handle.id)
    assert (final.release, final.attempt) == (run.release, 1)


async def is_in(field: Field, state: str) -> bool:
    return bool(await field.rows("SELECT FROM tasks WHERE state = $1", state))
