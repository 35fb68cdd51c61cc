"""The manager dies between two steps, under load, and another starts on its port: nothing lost, nothing run twice."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.faults.checker import check
from tests.faults.field import Field
from tests.faults.kill_point import Point, program
from tests.faults.ledger import Ledger
from tests.faults.load import under_load
from tests.support.spawn import TACOQ


@pytest.mark.timeout(150)
async def test_manager_killed_between_any_two_steps(field: Field, ledger: Ledger, seed: int) -> None:
    """Workers go on without it, so no run is repeated; what it had claimed and not published is rescued."""
    field.manager_program = program(Point.ACCEPTED)
    await field.up("worker")
    async with under_load(field.url, ledger, field.effects, seed=seed) as load:
        for point, following in zip(Point, [*map(program, Point), (TACOQ,)][1:], strict=True):
            await load.ran(50)
            await killed_at(point, field)
            if point is Point.CLAIMED:
                assert await field.rows("SELECT FROM tasks WHERE state = 'queued'"), "nothing was claimed"
            field.manager_program = following
            await field.begin_and_wait()
            await load.ran(50)
            if point is Point.SETTLED:
                assert "tacoq_moves_stale_total" in await field.text("/metrics"), "the reports did not come again"
    await check(field, ledger)


async def killed_at(point: Point, field: Field) -> None:
    manager = field.manager
    assert manager is not None
    field.strike(f"manager killed when it had {point}", 0)
    manager.send(signal.SIGUSR1)
    assert await asyncio.to_thread(manager.wait, 20) == -signal.SIGKILL
