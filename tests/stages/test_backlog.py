"""A backlog of 100,000: the broker holds what the workers can take now, and Postgres all the rest."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tacoq_manager.credit import MOST_PER_SLOT
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Completed
from tests.stages.floor import Floor

MANY = 100_000
SLOTS = 4
NOW = datetime(2026, 1, 1, tzinfo=UTC)

_PILE = """
INSERT INTO tasks (id, kind, queue, state, run_at, payload, fingerprint)
SELECT id, 'k', 'default', 'pending', now(), '1', '' FROM unnest($1::uuid[]) AS u (id)
"""


@pytest.mark.parametrize(("seconds", "most"), [(None, SLOTS), (10.0, SLOTS), (0.0, SLOTS * MOST_PER_SLOT)])
async def test_broker_holds_no_more_than_the_credit(either_floor: Floor, seconds: float | None, most: int) -> None:
    """Of a kind of unknown, of long and of the shortest run time; and goes on to hold as much while tasks end."""
    floor = either_floor
    await floor.connection.execute(_PILE, [new_task_id() for _ in range(MANY)])
    for _ in range(50 if seconds is not None else 0):
        floor.manager.runtimes.add("default", "k", seconds or 0.0)
    floor.join("k", slots=SLOTS)
    await floor.manager.leader.step()  # the pile may have taken longer than a lease
    await floor.manager.recount.step()
    ended = 0
    for some in (0, 1, 3, most - 4, most):
        done = floor.releases[ended : ended + some]
        ended += len(done)
        if done:
            ran = 1.0 if seconds is None else seconds
            await floor.report(*[Completed(*release.fence, NOW, ran, b"1") for release in done])
        await floor.dispatch()
        assert len(floor.releases) - ended == most
    waiting = await floor.connection.fetchval("SELECT count(*) FROM tasks WHERE state = 'pending'")
    assert waiting == MANY - ended - most
