"""A worker dies under load: by its session process, or whole. All that was accepted ends, once, and in time."""

from __future__ import annotations

import signal
from datetime import UTC, datetime

import pytest

from tests.faults.checker import check
from tests.faults.effects import Ran
from tests.faults.field import LEASE, Field
from tests.faults.ledger import Ledger
from tests.faults.load import under_load

BEFORE_ANY_LEASE = LEASE - 2.0  # seconds after a kill: the last beat may be two older


async def seconds_until_run_again(field: Field, since: datetime, pids: set[int]) -> list[float]:
    """How long after `since` each of the runs that died with these processes began again, shortest first."""
    runs = await field.effects.runs()
    died = {ran.task_id for ran in runs if ran.pid in pids and ran.ended_at is None}
    assert died, "nothing ran there: the fault hit nobody"
    again: dict[object, Ran] = {}
    for ran in runs:
        if ran.task_id in died and ran.started_at > since:
            again.setdefault(ran.task_id, ran)
    assert again.keys() == died
    return sorted((ran.started_at - since).total_seconds() for ran in again.values())


@pytest.mark.timeout(180)
async def test_killed_session_process_is_told_of_at_once(field: Field, ledger: Ledger, seed: int) -> None:
    """Its supervisor tells: what it ran begins again before a lease has run out."""
    (group, _) = await field.up("worker", "worker")
    await field.presence_works()
    async with under_load(field.url, ledger, field.effects, seed=seed) as load:
        await load.ran(100)
        since = datetime.now(UTC)
        pid = group.kill_session()
        await load.ran(100)
    await check(field, ledger)
    assert group.process.running
    (row,) = await field.rows("SELECT state, detail FROM workers WHERE pid = $1", pid)
    assert tuple(row) == ("lost", "was killed by SIGKILL"), "the supervisor did not tell"
    seconds = await seconds_until_run_again(field, since, {pid})
    print(f"run again after {seconds} s")
    assert seconds[0] < BEFORE_ANY_LEASE
    assert seconds[-1] < 2 * LEASE


@pytest.mark.timeout(180)
async def test_killed_worker_is_missed_after_a_lease(field: Field, ledger: Ledger, seed: int) -> None:
    """Nobody tells; the other worker does the work."""
    (group, _) = await field.up("worker", "worker")
    async with under_load(field.url, ledger, field.effects, seed=seed) as load:
        await load.ran(100)
        since, pids = datetime.now(UTC), {session.pid for session in group.sessions()}
        group.kill()
        await load.ran(100)
    await check(field, ledger)
    seconds = await seconds_until_run_again(field, since, pids)
    print(f"run again after {seconds} s")
    assert seconds[-1] < 3 * LEASE
    assert group.process.returncode == -signal.SIGKILL
