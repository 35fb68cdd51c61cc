"""A run much longer than the ack deadline: its message is acked early, its slot stays taken, its loss is found."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tacoq_publisher import Publisher, TaskHandle
from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.form import FORM
from tests.faults.handlers import nap_in_narrow, narrow
from tests.faults.ledger import Ledger
from tests.support.eventually import eventually

ACK_DEADLINE = 5.0 if FORM.long else 2.0
LONG = 180.0 if FORM.long else 20.0
BESIDE = 0.5
MANY = 12  # short tasks that wait for the slot that is left


@pytest.mark.timeout(LONG + 120)
async def test_long_run_is_acked_early_and_its_slot_stays_taken(field: Field, ledger: Ledger) -> None:
    """What waits goes through the other slot, one by one: nothing more is taken for the ack."""
    await up(field)
    async with Publisher(field.url) as tacoq:
        long = await begin(field, ledger, tacoq)
        for _ in range(MANY):
            await ledger.publish(tacoq, nap_in_narrow.task(BESIDE), BESIDE)
        held = 0
        while (await field.states())["completed"] < MANY:
            held = max(held, *[worker["held"] for worker in (await field.get("/v1/workers"))["workers"]])
            await asyncio.sleep(0.1)
        assert await long.state() == "running", "it has ended too soon"
        assert held <= narrow.concurrency
        await long.result(LONG + 60)
    await check(field, ledger)
    beside = [ran for ran in await field.effects.runs() if ran.task_id != long.id]
    assert len(beside) == MANY
    assert all(before.ended_at is not None and before.ended_at < ran.started_at for before, ran in pairwise(beside))


@pytest.mark.timeout(180)
async def test_death_of_a_worker_whose_run_was_acked_early_is_noticed_by_the_lease(
    field: Field, ledger: Ledger
) -> None:
    """No message comes again for it: the lease alone tells."""
    await up(field)
    async with Publisher(field.url) as tacoq:
        long = await begin(field, ledger, tacoq)
        (first,) = field.groups
        await field.add_worker("narrow")
        await field.joined(2, "narrow")
        first.kill()
        await eventually(lambda: began_again(field, long), 60, what="the run begins again elsewhere")
        await ledger.cancel(long)
    verdict = await check(field, ledger)
    assert verdict.extra_runs == 1


async def up(field: Field) -> None:
    field.settings["TACOQ_ACK_DEADLINE"] = f"{ACK_DEADLINE:g}s"
    await field.up("narrow")


async def begin(field: Field, ledger: Ledger, tacoq: Publisher) -> TaskHandle[float]:
    """Start a long run and wait until its message is acked."""
    long = await ledger.publish(tacoq, nap_in_narrow.task(LONG), LONG)
    await eventually(lambda: field.rows("SELECT FROM tasks WHERE state = 'running'"), 20, what="the start is reported")

    async def acked() -> bool:
        await asyncio.sleep(0.2)  # each look takes the broker a second of work
        return await field.broker.counts(field.topology.task_queue_name("narrow")) == (0, 0)

    await eventually(acked, ACK_DEADLINE + 20, what="its message is acked")
    assert await long.state() == "running", "it has ended before its message was acked"
    return long


async def began_again(field: Field, long: TaskHandle[float]) -> bool:
    return len(await field.effects.of(long.id)) == 2
