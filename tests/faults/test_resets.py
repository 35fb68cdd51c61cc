"""Connection resets, many in a row, under load: the worker takes work again after each, and nothing is left behind."""

from __future__ import annotations

import time
from statistics import median

import psutil
import pytest

from tacoq_publisher import Publisher
from tests.faults.checker import check
from tests.faults.conftest import MakeField
from tests.faults.field import Field, Link
from tests.faults.handlers import add
from tests.faults.ledger import Ledger
from tests.faults.load import under_load

RESETS = 50
FIRST = 10  # resets after which processes have all they need
BY_THE_BROKER = 10  # each so manieth is made by rabbitmqctl
WITHIN = 5.0
MiB = 1024 * 1024


@pytest.mark.timeout(400)
async def test_worker_takes_work_again_after_each_of_many_resets(
    make_field: MakeField, ledger: Ledger, seed: int
) -> None:
    field = await make_field(Link.MANAGER_BROKER, Link.WORKER_BROKER)
    await field.up("worker")
    seconds: list[float] = []
    sizes: list[dict[str, tuple[int, float]]] = []
    async with (
        under_load(field.url, ledger, field.effects, seed=seed, per_second=10),
        Publisher(field.url) as tacoq,
    ):
        for number in range(1, RESETS + 1):
            await reset(field, by_the_broker=number % BY_THE_BROKER == 0)
            began = time.monotonic()
            await (await ledger.publish(tacoq, add.task(number, 1), number + 1)).result(60)
            seconds.append(time.monotonic() - began)
            if number in (FIRST, RESETS):
                sizes.append(sizes_of(field))
    await check(field, ledger)
    print(f"work again after {median(seconds):.2f} s, {max(seconds):.2f} s at most; {sizes}")
    assert median(seconds) < WITHIN
    assert max(seconds) < 3 * WITHIN
    first, last = sizes
    for name in first:
        assert last[name][0] <= first[name][0] + 5, f"{name} leaks file descriptors: {first} {last}"
        assert last[name][1] <= first[name][1] + 15, f"{name} leaks memory: {first} {last}"


async def reset(field: Field, *, by_the_broker: bool) -> None:
    if by_the_broker:
        await field.broker.close_all_connections()
        return
    field.strike("all connections to the broker reset")
    field.link(Link.MANAGER_BROKER).reset()
    field.link(Link.WORKER_BROKER).reset()


def sizes_of(field: Field) -> dict[str, tuple[int, float]]:
    """File descriptors and MiB of each process, while it is connected."""
    (group,), manager = field.groups, field.manager
    assert manager is not None
    (session,) = group.sessions()
    processes = {
        "manager": psutil.Process(manager.pid),
        "supervisor": psutil.Process(group.process.pid),
        "session": session,
    }
    return {name: (process.num_fds(), round(process.memory_info().rss / MiB, 1)) for name, process in processes.items()}
