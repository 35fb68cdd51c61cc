"""Postgres drops its connections, also in the middle of a commit: everything is done once, and nothing twice."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import pytest

from tests.faults.checker import check
from tests.faults.conftest import MakeField
from tests.faults.field import Field, Link
from tests.faults.ledger import Ledger
from tests.faults.load import under_load
from tests.support.eventually import eventually


@pytest.mark.timeout(180)
async def test_postgres_restarted_and_its_connections_terminated(field: Field, ledger: Ledger, seed: int) -> None:
    await field.up("worker", "processes")
    async with under_load(field.url, ledger, field.effects, seed=seed, processes=True) as load:
        for _ in range(10):
            await load.ran(10)
            await field.postgres.terminate_backends()
        await field.postgres.restart()
        await load.ran(50)
        await field.postgres.kill()
        await field.postgres.start()
        await load.ran(50)
    await check(field, ledger)


@pytest.mark.timeout(180)
async def test_commits_whose_answer_is_lost(make_field: MakeField, ledger: Ledger, seed: int) -> None:
    """Postgres commits accepts and settles, and the manager never hears of it: it has to find out."""
    field = await make_field(Link.MANAGER_POSTGRES)
    await field.up("worker")
    link = field.link(Link.MANAGER_POSTGRES)
    async with under_load(field.url, ledger, field.effects, seed=seed) as load:
        lost = 0
        while lost < 3:
            await committed_since(await stored(field), field)  # so that connections are open
            before = await stored(field)
            field.strike("answers of Postgres lost", 0)
            link.freeze(requests=False)
            with suppress(AssertionError):  # an answer under way to `before` was held back, too
                await committed_since(before, field, seconds=2.0)
                lost += 1
            link.drop()
            link.thaw()
        await load.ran(50)
    await check(field, ledger)
    metrics = await field.text("/metrics")
    assert "tacoq_moves_stale_total{" in metrics, "no settle was applied a second time"  # perhaps of starts alone


class Stored(NamedTuple):
    """How many tasks were accepted, and what reports have changed."""

    accepted: int
    settled: tuple[int, int, int]


async def stored(field: Field) -> Stored:
    live = await field.rows("SELECT state FROM tasks")
    ended = (await field.rows("SELECT count(*) FROM task_history"))[0][0]
    failed = (await field.rows("SELECT count(*) FROM attempts"))[0][0]
    return Stored(len(live) + ended, (ended, failed, sum(row["state"] == "running" for row in live)))


async def committed_since(before: Stored, field: Field, *, seconds: float = 20.0) -> None:
    """Wait until an accept and a settle are committed."""

    async def both() -> bool:
        now = await stored(field)
        return now.accepted > before.accepted and now.settled != before.settled

    await eventually(both, seconds)
