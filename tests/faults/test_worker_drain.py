"""SIGTERM of a worker under load: it ends what it can, and hands back the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tacoq_publisher import Publisher, TaskHandle, TaskState
from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.handlers import SLOTS, nap, nap_in_process, sleeps_in_thread
from tests.faults.ledger import Ledger
from tests.faults.load import under_load
from tests.support.eventually import eventually

OUTLASTS_GRACE = 12.0  # of one second, and of the five that a cancelled run has to stop

ENDS = "SELECT outcome, error->>'type' AS type FROM attempts WHERE task_id = $1 AND outcome <> 'returned'"
BY_FAULT = "SELECT FROM attempts WHERE outcome NOT IN ('completed', 'returned') AND error->>'type' <> 'ValueError'"


@pytest.mark.timeout(150)
async def test_worker_that_may_end_its_runs_repeats_none(field: Field, ledger: Ledger, seed: int) -> None:
    """What it had not started goes to the other one, without an attempt; some comes to it while it ends."""
    (group, _, _) = await field.up("worker", "worker", "processes")
    async with under_load(field.url, ledger, field.effects, seed=seed, processes=True) as load:
        group.freeze()
        await load.ran(20)  # by the other one, while releases gather before this one
        group.terminate()
        group.thaw()
        await load.ran(50)
    verdict = await check(field, ledger)
    assert group.process.wait() == 0
    assert verdict.extra_runs == 0
    assert not await field.rows(BY_FAULT)


@pytest.mark.timeout(150)
async def test_worker_whose_runs_outlast_the_grace_time(field: Field, ledger: Ledger, seed: int) -> None:
    """Async runs are cancelled and processes killed: handed back, no attempt. A thread that does not stop ends the
    process: lost, and rescued.
    """
    await field.up()
    old = [await field.add_worker(name, grace="1s") for name in ("worker", "processes")]
    await field.joined(1)
    await field.joined(1, "processes")
    async with (
        Publisher(field.url) as tacoq,
        under_load(field.url, ledger, field.effects, seed=seed, processes=True) as load,
    ):
        long_runs = [
            await ledger.publish(tacoq, make.task(OUTLASTS_GRACE), OUTLASTS_GRACE)
            for make in (nap, nap_in_process, sleeps_in_thread)
        ]
        await all_run(long_runs)
        field.strike("workers drained", SLOTS + 2)
        for group in old:
            group.terminate()
        for name in ("worker", "processes"):
            await field.add_worker(name)
        await load.ran(50)
        codes = [await asyncio.to_thread(group.process.wait, 30) for group in old]
    await check(field, ledger)
    assert codes == [1, 0]
    napping, forked, deaf = long_runs
    for handle in (napping, forked):
        assert await field.rows(ENDS, handle.id) == []
    (lost,) = [row for row in await field.rows(ENDS, deaf.id) if row["outcome"] != "completed"]
    assert lost["type"] == "WorkerLost"
    assert [len(await field.effects.of(handle.id)) for handle in long_runs] == [2, 2, 2]


async def all_run(handles: list[TaskHandle[Any]]) -> None:
    async def so() -> bool:
        return {await handle.state() for handle in handles} == {TaskState.RUNNING}

    await eventually(so, 20)
