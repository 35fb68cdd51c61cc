"""`tacoq doctor` and `tacoq verify` on a whole system that works: they find nothing, whatever goes on there."""

from __future__ import annotations

import asyncio
import json

import pytest

from tacoq_publisher import Publisher
from tests.acceptance import handlers as h
from tests.support.cluster import Cluster
from tests.support.eventually import eventually

TASKS = 400


@pytest.mark.timeout(180)
async def test_a_system_under_load_is_well(cluster: Cluster) -> None:
    await cluster.start_manager()
    cluster.worker()
    cluster.worker("processes")
    await cluster.joined(1, "default")
    await cluster.joined(1, "processes")
    await eventually(lambda: written_down(cluster), what="both workers are written down")
    async with Publisher(cluster.url) as publisher, asyncio.TaskGroup() as group:
        load = group.create_task(keep_busy(publisher))
        for command in ("doctor", "verify", "doctor", "verify"):
            process = cluster.spawn(command, "--json")
            assert await asyncio.to_thread(process.wait, 60) == 0, process.log()
            told = json.loads(process.log())
            if command == "doctor":
                assert [found for found in told["findings"] if found["level"] != "ok"] == []
            else:
                assert [found for found in told["invariants"] if found["rows"] or found["unknown"]] == []
        assert not load.done(), load
        load.cancel()
    assert (await cluster.states())["completed"] > TASKS


async def written_down(cluster: Cluster) -> bool:
    return len(await cluster.rows("SELECT FROM workers WHERE state = 'live'")) == 2


async def keep_busy(publisher: Publisher) -> None:
    """Publish batches of tasks that run, fail and are tried again, wait and are cancelled, for ever."""
    while True:
        handles = await publisher.publish_many(
            [
                *(h.add.task(number, number) for number in range(TASKS)),
                *(h.nap.task(0.05) for _ in range(20)),
                *(h.fails.task("no") for _ in range(20)),
            ]
        )
        later = await publisher.publish(h.add.task(1, 1), delay=0.5, idempotency_key=str(handles[0].id))
        await (await publisher.publish(h.nap.task(60))).cancel()
        await handles[0].wait(30)
        await later.wait(30)
        async for _ in publisher.as_completed(handles[: TASKS + 20]):
            pass
