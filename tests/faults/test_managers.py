"""Several managers, published over at the same time: one dies or stands still, and nothing shows of it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest

from tacoq_publisher import Publisher, TaskHandle, TaskState
from tests.faults.checker import check
from tests.faults.field import LEASE, Field
from tests.faults.handlers import add, nap, nap_in_narrow
from tests.faults.ledger import Ledger
from tests.faults.load import Load, under_load_over
from tests.faults.seat import Seat
from tests.support.eventually import eventually

SHOWN = 30  # runs, as a sign that work goes on


def load_on_all(field: Field, ledger: Ledger, seed: int) -> AbstractAsyncContextManager[Load]:
    urls = [seat.url for seat in field.seats]
    return under_load_over(urls, ledger, field.effects, seed=seed, per_second=20)


async def two(field: Field, *workers: str) -> tuple[Seat, Seat]:
    """Start two managers and these workers; return first the one that leads."""
    await field.up(*workers)
    await field.add_manager()
    leader = await field.leading()
    (other,) = (seat for seat in field.seats if seat is not leader)
    return leader, other


@pytest.mark.timeout(240)
async def test_leader_is_killed_and_another_goes_on(field: Field, ledger: Ledger, seed: int) -> None:
    """Three times; the one that was killed comes back each time, and then waits for its turn."""
    await two(field, "worker")
    async with load_on_all(field, ledger, seed) as load:
        for _ in range(3):
            leader = await field.leading()
            await leader.kill()
            await field.leading(beside=leader)
            await load.ran(SHOWN)
            await leader.begin_and_wait()
            await load.ran(SHOWN)
    verdict = await check(field, ledger)
    assert verdict.extra_runs == 0


@pytest.mark.timeout(240)
async def test_leader_that_stood_still_can_do_nothing_when_it_goes_on(field: Field, ledger: Ledger, seed: int) -> None:
    """It wakes up in the middle of whatever it did, shortly after another took over, and after all its links died."""
    await two(field, "worker")
    async with load_on_all(field, ledger, seed) as load:
        for seconds in (0.0, 1.5 * LEASE):
            leader = await field.leading()
            leader.freeze()
            await field.leading(beside=leader)
            await load.ran(SHOWN)
            await asyncio.sleep(seconds)
            leader.thaw()
            await load.ran(SHOWN)
            (row,) = await field.rows("SELECT holder FROM leader")
            assert not leader.is_named(row["holder"]), "it took the lead from the one that has it"
    verdict = await check(field, ledger)
    assert verdict.extra_runs == 0
    assert any("leadership lost" in process.log() for process in field.spawned), "no leader stood still for long enough"


@pytest.mark.timeout(240)
async def test_manager_that_does_not_lead_is_killed_and_stands_still(field: Field, ledger: Ledger, seed: int) -> None:
    """The reports that it had been given come to the other; until then nothing is taken for lost."""
    leader, other = await two(field, "worker")
    async with load_on_all(field, ledger, seed) as load:
        await other.kill()
        await load.ran(SHOWN)
        await other.begin_and_wait()
        await load.ran(SHOWN)
        other.freeze()
        await load.ran(SHOWN)
        await asyncio.sleep(1.5 * LEASE)
        other.thaw()
        await load.ran(SHOWN)
    verdict = await check(field, ledger)
    assert verdict.extra_runs == 0
    assert (await field.leading()) is leader


@pytest.mark.timeout(180)
async def test_order_holds_over_a_takeover(field: Field, ledger: Ledger) -> None:
    """Each is answered before the next is sent, over managers in turn; the leader dies in the middle of it."""
    leader, other = await two(field)
    handles: list[TaskHandle[Any]] = []
    async with Publisher(leader.url) as one, Publisher(other.url) as two_:
        for number in range(60):
            over = two_ if number % 2 or not leader.running else one
            handles.append(await ledger.publish(over, nap_in_narrow.task(0.0), 0.0))
            if number == 30:
                await field.add_worker("narrow")
                await leader.kill()
        await asyncio.gather(*(ledger.wait(handle) for handle in handles[-10:]))
    await check(field, ledger)
    rows = await field.rows("SELECT id, queued_at, seq FROM task_history ORDER BY queued_at, seq")
    assert [row["id"] for row in rows] == [handle.id for handle in handles]


@pytest.mark.timeout(180)
async def test_waits_and_cancels_work_over_any_manager_while_the_leader_dies(field: Field, ledger: Ledger) -> None:
    leader, other = await two(field, "worker")
    async with Publisher(leader.url) as one, Publisher(other.url) as two_:
        runs = await ledger.publish(two_, nap.task(60.0), 60.0)
        waits = await ledger.publish(one, add.task(1, 2), 3, delay="1h")
        ends = await ledger.publish(one, nap.task(3.0), 3.0)

        async def running() -> bool:
            return len(await field.rows("SELECT FROM tasks WHERE state = 'running'")) == 2

        await eventually(running, 30, what="two runs are on record")
        waiting = asyncio.gather(*(ledger.wait(two_.handle(h.id)) for h in (runs, waits, ends)))
        await leader.kill()
        for handle in (runs, waits):
            await ledger.cancel(two_.handle(handle.id))
        assert await waiting == [TaskState.CANCELLED, TaskState.CANCELLED, TaskState.COMPLETED]
    await check(field, ledger)


@pytest.mark.timeout(180)
async def test_each_fire_time_has_one_task_when_the_leader_dies_over_it(field: Field) -> None:
    leader, other = await two(field, "worker")
    schedule = {"kind": "add", "payload": {"x": 1, "y": 2}, "cron": "0 0 1 1 *"}
    async with aiohttp.ClientSession() as http, http.put(f"{other.url}/v1/schedules/yearly", json=schedule) as answer:
        assert answer.status in (200, 201), await answer.text()
    for fired, stop in enumerate((leader.kill, leader.begin_and_wait, other.kill), start=1):
        await field.rows("UPDATE schedules SET next_fire_at = now() - make_interval(secs => $1)", 1.0)
        await stop()

        async def ended() -> bool:
            return len(await field.rows("SELECT FROM task_history")) == fired  # noqa: B023 (awaited in its turn)

        await eventually(ended, 30, what="its task has run")
    assert not await field.rows("SELECT FROM tasks")


@pytest.mark.timeout(180)
async def test_new_leader_goes_on_with_the_tokens_that_the_other_left(field: Field, ledger: Ledger) -> None:
    leader, other = await two(field, "worker")
    async with (
        aiohttp.ClientSession(other.url) as http,
        http.put("/v1/kinds/add/limits", json={"rate": "6/m"}) as answer,
    ):
        assert answer.status == 200, await answer.text()
    async with Publisher(leader.url) as one, Publisher(other.url) as two_:
        await ledger.wait(await ledger.publish(one, add.task(1, 1), 2))
        waits = await ledger.publish(two_, add.task(1, 1), 2)
        await leader.kill()
        await ledger.wait(waits)
    await check(field, ledger)
    first, last = await field.rows("SELECT queued_at FROM task_history ORDER BY queued_at")
    # 10 s, but for how long a claim takes. With a full bucket the new leader would have released it at once.
    assert (last["queued_at"] - first["queued_at"]).total_seconds() > 7
