"""A worker's link falls silent just before a task that may run once only begins: it runs elsewhere, and there alone."""

from __future__ import annotations

import pytest

from tacoq_publisher import Publisher
from tests.faults.checker import check
from tests.faults.field import LEASE, Field
from tests.faults.handlers import tried_once
from tests.faults.ledger import Ledger
from tests.support.eventually import eventually


@pytest.mark.timeout(150)
async def test_task_that_may_run_once_does_not_begin_where_it_was_taken_for_lost(field: Field, ledger: Ledger) -> None:
    await field.begin_and_wait()
    silent = await field.add_worker("worker", own_link=True)
    await field.joined()
    await field.presence_works()
    assert silent.link is not None

    async def given() -> bool:
        return await field.broker.counts(field.topology.task_queue_name("default")) == (0, 1)

    async def all_idle() -> bool:
        sessions = (await field.get("/v1/workers"))["workers"]
        return len(sessions) == 2 and all(session["held"] == 0 for session in sessions)

    field.strike("worker's link silent", 0)
    silent.link.freeze(replies=False)  # releases come, and what is reported of them does not arrive
    async with Publisher(field.url) as tacoq:
        handle = await ledger.publish(tacoq, tried_once.task(0.1), 0.1)
        await eventually(given, what="the silent worker has it")
        await field.add_worker("worker")
        await handle.result(6 * LEASE)
        silent.link.thaw()
        await eventually(all_idle, 60, what="the worker is back, and has nothing")
    await check(field, ledger)
    assert len(await field.effects.of(handle.id)) == 1
