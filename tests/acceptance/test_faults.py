"""A worker dies under load: every accepted task still gets exactly one final state.

Checked in the database, against what publishers were told was accepted.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tacoq_publisher import Publisher, TaskFailed, TaskHandle
from tests.acceptance.handlers import add, dies, nap
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.spawn import Spawned

TASKS = 600
EXTRA = 40  # of them longer: the fault finds some running


async def publish(tacoq: Publisher) -> list[TaskHandle[int] | TaskHandle[float]]:
    """Publish short tasks with longer ones between them; return when all are accepted."""
    handles: list[TaskHandle[int] | TaskHandle[float]] = []
    for start in range(0, TASKS, TASKS // EXTRA):
        handles += await tacoq.publish_many(add.task(i, 1) for i in range(start, start + TASKS // EXTRA))
        handles.append(await tacoq.publish(nap.task(0.3)))
    return handles


async def check(cluster: Cluster, handles: list[TaskHandle[int] | TaskHandle[float]], seconds: float = 60.0) -> None:
    """All final, each once, all completed, and every result is the right one."""
    states = await cluster.all_final(len(handles), seconds)
    assert states == {"completed": len(handles)}
    results = await asyncio.gather(*(handle.result(10) for handle in handles))
    assert round(sum(results), 3) == sum(i + 1 for i in range(TASKS)) + 0.3 * EXTRA


async def some_done(cluster: Cluster) -> None:
    async def done() -> bool:
        return (await cluster.states())["completed"] > 20

    await eventually(done, 20, what="the load is under way")


def session_process(supervisor: Spawned) -> int:
    """Return the pid of the session process under `tacoq worker`."""
    children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    assert children, f"no session process under {supervisor}"
    return int(children[0])


@pytest.mark.timeout(120)
async def test_killed_session_process_is_replaced_and_loses_nothing(cluster: Cluster) -> None:
    await cluster.start_manager()
    worker = cluster.worker()
    await cluster.joined()
    async with Publisher(cluster.url) as tacoq:
        publishing = asyncio.create_task(publish(tacoq))
        await some_done(cluster)
        os.kill(session_process(worker), signal.SIGKILL)
        await check(cluster, await publishing)
    assert worker.running, "the supervisor lives"


@pytest.mark.timeout(120)
async def test_killed_worker_with_its_supervisor_loses_nothing(cluster: Cluster) -> None:
    """The lease has to run out; the other worker then does the work."""
    await cluster.start_manager()
    victim, _ = cluster.worker(), cluster.worker()
    await cluster.joined(2)
    async with Publisher(cluster.url) as tacoq:
        publishing = asyncio.create_task(publish(tacoq))
        await some_done(cluster)
        os.killpg(victim.pid, signal.SIGKILL)
        await check(cluster, await publishing)


@pytest.mark.timeout(120)
async def test_task_that_may_run_once_only_fails_when_its_worker_dies_with_it(cluster: Cluster, tmp_path: Path) -> None:
    """Also when that happens before the start of an ordinary run would be reported."""
    ledger = tmp_path / "ledger"
    await cluster.start_manager()
    cluster.worker()
    await cluster.joined()
    async with Publisher(cluster.url) as tacoq:
        with pytest.raises(TaskFailed, match="WorkerLost"):
            await (await tacoq.publish(dies.task(str(ledger)))).result(60)
    assert ledger.read_text() == "ran\n"
