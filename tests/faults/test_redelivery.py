"""Messages come again while their runs go on, or before they began: no run is repeated, none is counted as a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from tacoq_publisher import Publisher
from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.handlers import add, wait_for_file
from tests.faults.ledger import Ledger
from tests.faults.load import under_load
from tests.support.eventually import eventually

LONG = 12  # runs that outlive all resets
RESETS = 5
PREFETCHED = 30


@pytest.mark.timeout(180)
async def test_runs_go_on_and_count_through_five_resets_in_a_row(
    field: Field, ledger: Ledger, seed: int, tmp_path: Path
) -> None:
    """Each reset makes the broker give their messages to anybody; who runs them has them still."""
    await field.up("worker", "worker")
    async with (
        under_load(field.url, ledger, field.effects, seed=seed) as load,
        Publisher(field.url) as tacoq,
    ):
        file = tmp_path / "let them go"
        long = await ledger.publish_all(tacoq, [(wait_for_file.task(str(file)), str(file))] * LONG)
        await eventually(lambda: running(field, LONG), 30, what="the long runs are reported")
        for _ in range(RESETS):
            await field.broker.close_all_connections()
            await load.ran(20)
        assert await running(field, LONG)
        file.touch()
    await check(field, ledger)
    assert not await blamed(field)
    for handle in long:
        assert len(await field.effects.of(handle.id)) == 1


async def running(field: Field, tasks: int) -> bool:
    rows = await field.rows("SELECT FROM tasks WHERE state = 'running' AND kind = 'wait_for_file'")
    return len(rows) == tasks


@pytest.mark.parametrize("fault", ["killed", "reset"])
@pytest.mark.timeout(180)
async def test_prefetched_work_that_never_started_comes_back_without_an_attempt(
    field: Field, ledger: Ledger, fault: str
) -> None:
    """Half of it is with a worker that stands still: it dies, or its connection does, before it looks at it."""
    (still, _) = await field.up("worker", "worker")
    await eventually(lambda: looks(field, (0, 2)), 20, what="both consume")  # they do so after they joined
    async with Publisher(field.url) as tacoq:
        still.freeze()
        await ledger.publish_all(tacoq, [(add.task(number, 1), number + 1) for number in range(PREFETCHED)])
        await eventually(lambda: is_prefetched(field), 20, what="all is given out, in turn, and some has run")
        if fault == "killed":
            still.kill()
        else:
            await field.broker.close_all_connections()
            still.thaw()
    await check(field, ledger)
    assert not await blamed(field)
    assert not await field.rows("SELECT FROM attempts WHERE outcome <> 'returned'")
    came_back = await field.rows("SELECT FROM task_history WHERE release > 1")
    assert came_back or fault == "reset"  # then whoever stood still may run what it had received


async def is_prefetched(field: Field) -> bool:
    return await looks(field, (0, 2)) and bool(await field.rows("SELECT FROM task_history"))


async def looks(field: Field, ready_and_consumers: tuple[int, int]) -> bool:
    return await field.broker.ready_and_consumers(field.topology.task_queue_name("default")) == ready_and_consumers


async def blamed(field: Field) -> list[object]:
    """Tasks that were charged with a loss."""
    lost = await field.rows("SELECT task_id FROM attempts WHERE outcome IN ('lost', 'crashed')")
    return [*lost, *await field.rows("SELECT id FROM task_history WHERE crashes > 0")]
