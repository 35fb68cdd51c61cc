"""Postgres is away: publishers are told to come again, workers go on, and what they report is settled afterwards."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from tacoq_publisher import Publisher, TaskHandle, TaskState, new_task_id
from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.form import FORM
from tests.faults.handlers import nap
from tests.faults.ledger import PATIENCE, Ledger
from tests.faults.load import under_load
from tests.support.eventually import eventually

AWAY = 30.0 if FORM.long else 12.0
RUN = AWAY / 2


async def runs_begun(field: Field, ledger: Ledger, tacoq: Publisher) -> list[TaskHandle[Any]]:
    """Publish runs that will end while Postgres is away; return when all run."""
    handles = [await ledger.publish(tacoq, nap.task(RUN), RUN) for _ in range(5)]

    async def all_run() -> bool:
        return {await handle.state() for handle in handles} == {TaskState.RUNNING}

    await eventually(all_run, 20)
    return handles


async def ended_while_away(field: Field, handles: list[TaskHandle[Any]], back: datetime) -> None:
    """Check that each ran once, to its end, before Postgres was back."""
    for handle in handles:
        (ran,) = await field.effects.of(handle.id)
        assert ran.ended_at is not None
        assert ran.ended_at < back


@pytest.mark.timeout(180)
async def test_postgres_stopped_for_a_while(field: Field, ledger: Ledger, seed: int) -> None:
    """A publish is answered with 503 and when to come again; the SDK does, and succeeds."""
    await field.up("worker")
    async with (
        Publisher(field.url, retry_for=PATIENCE) as tacoq,
        under_load(field.url, ledger, field.effects, seed=seed, per_second=10) as load,
    ):
        handles = await runs_begun(field, ledger, tacoq)
        await field.postgres.stop()
        task = {"id": str(new_task_id()), "kind": "add", "payload": {"x": 1, "y": 1}}
        async with aiohttp.ClientSession() as http, http.post(f"{field.url}/v1/tasks", json=task) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1"), await answer.text()
        publishing = asyncio.create_task(ledger.publish(tacoq, nap.task(0.0), 0.0))
        await asyncio.sleep(AWAY)
        assert not publishing.done()
        back = datetime.now(UTC)
        await field.postgres.start()
        assert await ledger.wait(await publishing, 60) is TaskState.COMPLETED
        await load.ran(20)
    await check(field, ledger)
    await ended_while_away(field, handles, back)


@pytest.mark.timeout(180)
async def test_postgres_frozen_for_a_while(field: Field, ledger: Ledger, seed: int) -> None:
    """All its connections stay open, and nothing comes from them."""
    await field.up("worker")
    async with (
        Publisher(field.url, retry_for=PATIENCE, request_timeout="5s") as tacoq,
        under_load(field.url, ledger, field.effects, seed=seed, per_second=10) as load,
    ):
        handles = await runs_begun(field, ledger, tacoq)
        field.postgres.freeze()
        publishing = asyncio.create_task(ledger.publish(tacoq, nap.task(0.0), 0.0))
        await asyncio.sleep(AWAY)
        assert not publishing.done()
        back = datetime.now(UTC)
        field.postgres.thaw()
        assert await ledger.wait(await publishing, 60) is TaskState.COMPLETED
        await load.ran(20)
    await check(field, ledger)
    await ended_while_away(field, handles, back)
