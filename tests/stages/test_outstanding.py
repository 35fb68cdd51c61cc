"""Outstanding: reports that another manager was given and has not settled keep everything from being freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tacoq_manager import outstanding
from tacoq_manager.manager import Manager
from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.messages import Completed, HasSettled, Reports
from tests.stages.floor import Floor
from tests.support.eventually import eventually


@pytest_asyncio.fixture
async def leading(floor: Floor) -> Floor:
    """The manager that asks."""
    await floor.manager.presence.start()
    await eventually(lambda: floor.manager.sessions.steady_since is not None, what="it hears itself")
    return floor


@pytest_asyncio.fixture
async def other(leading: Floor, hub: MemoryHub) -> AsyncIterator[Manager]:
    """A manager beside it, all of whose stages work."""
    manager = Manager(leading.manager.settings, MemoryBroker(hub, "other manager"))
    await manager.start()
    yield manager
    await manager.stop()


async def completes_with_the_other(floor: Floor, task_id: UUID) -> None:
    """Report twice: brokers give messages to consumers in turn. This manager gets one that means nothing."""
    topology = floor.manager.topology
    for id in (uuid4(), task_id):
        report = Completed(id, 1, datetime(2026, 1, 1, tzinfo=UTC), 1.0, b"1")
        body = codec.encode(Reports(floor.session, "default", [report]))
        message = Outgoing(topology.reports.name, topology.reports_queue.name, codec.REPORTS.name, body)
        await floor.worker.publish([message], seconds=5)
    await eventually(lambda: bool(floor.manager.settler._arrived))
    await floor.manager.settler.step()


async def test_nothing_is_outstanding_when_nobody_has_reports(leading: Floor, other: Manager) -> None:
    assert await leading.manager.outstanding.none()
    assert await other.outstanding.none()


async def test_reports_that_another_manager_has_not_settled_are_outstanding(
    leading: Floor, other: Manager, lock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    leading.join("k")
    (task_id,) = await leading.accept()
    await leading.dispatch()
    await lock.execute("SELECT FROM tasks FOR UPDATE")
    await completes_with_the_other(leading, task_id)
    assert await leading.manager.broker.message_count(leading.manager.topology.reports_queue.name) == 0
    monkeypatch.setattr(outstanding, "ANSWER_SECONDS", 0.2)
    assert not await leading.manager.outstanding.none()
    monkeypatch.setattr(outstanding, "ANSWER_SECONDS", 30.0)
    asking = asyncio.create_task(leading.manager.outstanding.none())
    await lock.close()
    assert await asking
    assert await leading.state(task_id) == "completed"


async def test_consumer_that_does_not_answer_may_have_reports(
    leading: Floor, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager that stands still, say, whatever is heard of it otherwise."""
    frozen = MemoryBroker(hub, "frozen")
    await frozen.start()
    await frozen.consume(Consumer(leading.manager.topology.reports_queue, lambda _: None))
    monkeypatch.setattr(outstanding, "ANSWER_SECONDS", 0.2)
    assert not await leading.manager.outstanding.none()
    await frozen.stop()  # the broker has taken back what it had
    assert await leading.manager.outstanding.none()


async def test_manager_that_began_after_the_count_does_not_stand_for_one_that_was_counted(
    leading: Floor, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = MemoryBroker(hub, "frozen")
    await frozen.start()
    await frozen.consume(Consumer(leading.manager.topology.reports_queue, lambda _: None))
    monkeypatch.setattr(outstanding, "ANSWER_SECONDS", 0.5)
    asking = asyncio.create_task(leading.manager.outstanding.none())
    await eventually(lambda: bool(leading.manager.outstanding._questions))
    (question,) = leading.manager.outstanding._questions
    leading.manager.outstanding.hear(HasSettled(uuid4(), question, consumes_for=0.0))
    assert not await asking
    await frozen.stop()


async def test_queue_that_is_too_busy_to_be_counted_tells_nothing(
    leading: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ then says that a quorum queue has neither messages nor consumers."""
    await leading.manager.outstanding.consuming.stop()  # type: ignore[union-attr]
    monkeypatch.setattr(outstanding, "LOOK_AGAIN_SECONDS", 0.0)
    assert not await leading.manager.outstanding.none()
