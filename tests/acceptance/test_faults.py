"""A handler that dies at once, of a kind that may run only once. All other faults are those of `tests/faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tacoq_publisher import Publisher, TaskFailed
from tests.acceptance.handlers import dies
from tests.support.cluster import Cluster


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
