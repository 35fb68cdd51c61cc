"""RabbitMQ loses what it had, or its answer is lost: Postgres knows what was released, and no outcome counts twice."""

from __future__ import annotations

import re

import pytest

from tests.faults.checker import check
from tests.faults.conftest import MakeField
from tests.faults.field import Field, Link
from tests.faults.ledger import Ledger
from tests.faults.load import under_load
from tests.support.eventually import eventually


@pytest.mark.timeout(240)
async def test_rabbitmq_loses_its_messages_its_queues_and_its_data(field: Field, ledger: Ledger, seed: int) -> None:
    """Restarted, killed, its queues deleted, its data removed, one after the other under load."""
    await field.up("worker", "processes")
    broker, topology = field.broker, field.topology
    async with under_load(field.url, ledger, field.effects, seed=seed, processes=True) as load:
        await load.ran(60)
        await broker.restart()
        await load.ran(60)
        await broker.kill()
        await broker.start()
        await load.ran(60)
        await broker.delete_queue(topology.task_queue_name("default"))
        await load.ran(60)
        await broker.delete_queue(topology.reports_queue.name)
        await load.ran(60)
        await broker.wipe()
        await load.ran(60)
    await check(field, ledger)


async def counted(field: Field, sample: str) -> float:
    """Return a counter of the manager's."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", await field.text("/metrics"), re.MULTILINE)
    return float(found.group(1)) if found else 0.0


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("confirms", "worker"), [("come late", "stands still"), ("never come", "goes on")])
async def test_confirms_that_are_lost(
    make_field: MakeField, ledger: Ledger, seed: int, confirms: str, worker: str
) -> None:
    """A task that was given back for want of a confirm has two messages, and one outcome.

    With a worker that goes on the older run's outcome is there first, and counts. One that stood still finds both
    messages when it wakes up: the older release is closed by then, and what it returns is stale.
    """
    field = await make_field(Link.MANAGER_BROKER)
    (group,) = await field.up("worker")
    link = field.link(Link.MANAGER_BROKER)
    # So few that slots are left: while no report comes in none becomes free, and what was given back needs some.
    async with under_load(field.url, ledger, field.effects, seed=seed, per_second=3) as load:
        await load.ran(20)
        field.strike(f"confirms {confirms}, worker {worker}")
        if worker == "stands still":
            group.freeze()
        link.freeze(requests=False)

        async def given_back() -> bool:
            return await counted(field, "tacoq_publishes_failed_total") > 0

        await eventually(given_back, 30)
        if confirms == "never come":
            link.drop()
        link.thaw()
        if worker == "stands still":
            await released_again(field)
            group.thaw()
        await load.ran(20)
    verdict = await check(field, ledger)
    if worker == "stands still":
        assert verdict.extra_runs > 0
        assert await counted(field, 'tacoq_moves_stale_total{move="complete"}') > 0


async def released_again(field: Field) -> None:
    """Wait until a task is out for the second time, without an outcome of the first."""

    async def so() -> bool:
        return bool(await field.rows("SELECT FROM tasks WHERE state = 'queued' AND release > 1 AND attempt = 0"))

    await eventually(so, 30)
