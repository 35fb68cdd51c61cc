"""RabbitMQ is away, or takes nothing, for longer than a lease: nobody is taken for lost, and all goes on afterwards.

A lease is a time in which presence worked: while it does not, silence says nothing about who is silent.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from tacoq_publisher import Publisher, TaskState
from tests.faults.checker import check
from tests.faults.field import LEASE, Field
from tests.faults.form import FORM
from tests.faults.handlers import add, nap, nap_in_thread
from tests.faults.ledger import Ledger
from tests.faults.load import under_load
from tests.support.eventually import eventually

AWAY = (3.0 if FORM.long else 1.5) * LEASE
LONG_RUN = AWAY + 3.0
START_SECONDS = 15.0  # where 5 are promised: for a machine that does much else


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["stopped", "blocked"])
async def test_outage_of_rabbitmq_longer_than_a_lease(field: Field, ledger: Ledger, seed: int, how: str) -> None:
    """Long runs go on to their end, publishing does, and what waited is started when the broker is back."""
    await field.up("worker")
    async with (
        Publisher(field.url) as tacoq,
        under_load(field.url, ledger, field.effects, seed=seed, per_second=10) as load,
    ):
        long_runs = [await ledger.publish(tacoq, nap.task(LONG_RUN), LONG_RUN) for _ in range(4)]
        long_runs += [await ledger.publish(tacoq, nap_in_thread.task(LONG_RUN), LONG_RUN) for _ in range(4)]

        async def all_run() -> bool:
            return {await handle.state() for handle in long_runs} == {TaskState.RUNNING}

        await eventually(all_run, 20)
        await (field.broker.stop() if how == "stopped" else field.broker.raise_alarm())
        async with asyncio.timeout(5):
            waiting = await ledger.publish(tacoq, add.task(1, 1), 2)
        await asyncio.sleep(AWAY)
        assert await field.effects.of(waiting.id) == []
        assert await all_run()
        await (field.broker.start() if how == "stopped" else field.broker.clear_alarm())
        back = datetime.now(UTC)
        await ledger.wait(waiting, 60)
        first, *_ = await field.effects.of(waiting.id)  # a blocked broker may have its message twice
        print(f"{how}: started {(seconds := (first.started_at - back).total_seconds()):.1f} s after")
        assert seconds < START_SECONDS
        await load.ran(20)
    await check(field, ledger)
    for handle in long_runs:
        assert len(await field.effects.of(handle.id)) == 1
