"""What ended, counted by kind and minute: over all managers, whatever becomes of one."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tacoq_manager import metrics as counted
from tacoq_manager.stats import Stats
from tacoq_manager.store import stats as store
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.store.stats import KEPT, Tally
from tacoq_manager.upkeep import retention
from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.messages import Completed, Failed
from tests.stages.floor import Floor

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADD, SUB = Flow("default", "add"), Flow("default", "sub")


async def test_ends_and_runs_are_counted_as_they_are_settled(floor: Floor) -> None:
    """A run that fails counts as one, and its task only when no other follows."""
    floor.join("k")
    await floor.accept(3)
    await floor.dispatch()
    one, two, _ = [release.task_id for release in floor.releases]
    await floor.report(Completed(one, 1, NOW, 0.5, b"5"))
    await floor.report(Failed(two, 1, NOW, 0.25, 0, ErrorInfo("ValueError", "no"), True))
    await floor.manager.stats.step()
    stats = await store.read(floor.manager.database, minutes=2)
    (kind,) = stats.kinds
    assert (kind.queue, kind.kind) == ("default", "k")
    assert (kind.completed, kind.failed, kind.retried) == (1, 0, 1)
    assert (kind.runs, kind.run_seconds) == (2, 0.75)
    assert sum(minute.completed for minute in stats.minutes) == 1


async def test_managers_add_to_rows_of_their_own_and_are_summed(floor: Floor) -> None:
    database = floor.manager.database
    others = [Stats(database.upkeep, manager=id) for id in (floor.manager.id, uuid4())]
    for number, other in enumerate(others, start=1):
        for _ in range(2):
            other.add({ADD: Tally(completed=number, runs=number, run_seconds=0.5), SUB: Tally(failed=1)})
            await other.step()
    stats = await store.read(database, minutes=2)
    assert {kind.kind: (kind.completed, kind.failed, kind.run_seconds) for kind in stats.kinds} == {
        "add": (6, 0, 2.0),
        "sub": (0, 4, 0.0),
    }
    assert [kind.kind for kind in (await store.read(database, minutes=2, kind="sub")).kinds] == ["sub"]
    assert not (await store.read(database, minutes=2, queue="other")).minutes


async def test_what_could_not_be_written_is_written_by_the_next_step(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = Stats(floor.manager.database.upkeep, floor.manager.id)

    async def away(*_: object) -> None:
        raise DatabaseUnavailable("gone")

    stats.add({ADD: Tally(completed=1)})
    with monkeypatch.context() as fault:
        fault.setattr(store, "add", away)
        with pytest.raises(DatabaseUnavailable):
            await stats.step()
        await stats.stop()
    stats.add({ADD: Tally(completed=1)})
    assert await stats.step() == 1
    assert await stats.step() == 0
    assert [kind.completed for kind in (await store.read(floor.manager.database, minutes=2)).kinds] == [2]


async def test_what_a_step_that_is_cancelled_had_is_written_at_the_stop(floor: Floor) -> None:
    stats = Stats(floor.manager.database.upkeep, floor.manager.id)
    stats.add({ADD: Tally(completed=1)})
    async with floor.manager.database.upkeep._turn:  # another statement is under way
        step = asyncio.create_task(stats.step())
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait([step])
    await stats.stop()
    assert [kind.completed for kind in (await store.read(floor.manager.database, minutes=2)).kinds] == [1]


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
async def test_run_of_a_length_that_cannot_be_is_counted_without_it(floor: Floor, seconds: float) -> None:
    floor.join("k")
    await floor.accept(1)
    await floor.dispatch()
    await floor.report(Completed(floor.releases[0].task_id, 1, NOW, seconds, b"5"))
    await floor.manager.stats.step()
    (kind,) = (await store.read(floor.manager.database, minutes=2)).kinds
    assert (kind.runs, kind.run_seconds) == (1, 0.0)


async def test_a_day_is_kept(floor: Floor) -> None:
    for flow in (ADD, SUB):
        await store.add(floor.manager.database.upkeep, floor.manager.id, {flow: Tally(completed=1)})
    await floor.manager.database.upkeep.fetch(
        "UPDATE task_stats SET minute = now() - $1::interval WHERE kind = 'sub'", KEPT + timedelta(minutes=1)
    )
    await retention.step(floor.manager.database, retention=timedelta(days=7))
    rows = await floor.manager.database.read.fetch("SELECT kind FROM task_stats")
    assert [row["kind"] for row in rows] == ["add"]


def test_kinds_that_somebody_makes_up_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "MOST_FLOWS", 2)
    metrics = counted.Metrics()
    for number in range(5):
        metrics.ended({Flow("default", f"kind {number}"): Tally(cancelled=1)})
    metrics.ended({Flow("default", "kind 0"): Tally(completed=3)})

    def value(queue: str, kind: str, state: str) -> float | None:
        labels = {"queue": queue, "kind": kind, "state": state}
        return metrics.registry.get_sample_value("tacoq_tasks_final_total", labels)

    assert value("default", "kind 0", "completed") == 3
    assert value("default", "kind 1", "cancelled") == 1
    assert value("other", "other", "cancelled") == 3
