"""Reroute: tasks that named no queue go to the workers that bring their kind, whenever those come."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest

from tacoq_manager.store import reroute
from tacoq_protocol.http import NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import KindSpec, Register
from tests.stages.floor import Floor


def bring(floor: Floor, kind: str) -> None:
    """A session of the queue `other` registers that knows `kind`."""
    register = Register(uuid4(), "other", 4, [KindSpec(kind)], "hash", "host", 1, "0", datetime.now(UTC))
    floor.manager.sessions.register(register, time.monotonic())
    floor.manager._sessions_changed("other")


def without_queue(count: int) -> list[NewTask]:
    return [NewTask(id=new_task_id(), kind="k", payload=msgspec.Raw(b"1")) for _ in range(count)]


async def queues(floor: Floor) -> set[tuple[str, int]]:
    await asyncio.gather(*floor.manager.running.errands)
    rows = await floor.connection.fetch("SELECT queue, count(*) FROM tasks GROUP BY queue")
    return {(row["queue"], row["count"]) for row in rows}


async def test_tasks_that_wait_go_to_the_workers_that_come(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, in parts."""
    monkeypatch.setattr(reroute, "MOST", 3)
    accepting = asyncio.ensure_future(floor.manager.accepter.accept(without_queue(10)))
    await asyncio.sleep(0)
    await floor.manager.accepter.step()
    await accepting
    await floor.accept(1, kind="k")  # names its queue
    bring(floor, "k")
    assert await queues(floor) == {("other", 10), ("default", 1)}


async def test_task_that_is_accepted_while_its_workers_come_goes_to_them(floor: Floor) -> None:
    """Its queue was guessed before they came, and it was committed after the table was looked through for them."""
    accepting = asyncio.ensure_future(floor.manager.accepter.accept(without_queue(1)))
    await asyncio.sleep(0)
    bring(floor, "k")
    assert await queues(floor) == set()
    await floor.manager.accepter.step()
    await accepting
    assert await queues(floor) == {("other", 1)}
