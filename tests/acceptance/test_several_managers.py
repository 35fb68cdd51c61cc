"""Two managers with everything off that would find lost news: what one does, the other's callers see at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from uuid import UUID

import pytest
import pytest_asyncio

from scripts.cleanup import delete_topology
from tacoq_manager import notify
from tacoq_manager.api.app import create_app
from tacoq_manager.manager import Manager
from tacoq_manager.serve import HttpServer
from tacoq_manager.settings import Settings
from tacoq_manager.upkeep import recount
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tacoq_publisher import Publisher, TaskEnd, TaskState
from tests.acceptance import handlers as h
from tests.support.cluster import HANDLERS
from tests.support.eventually import eventually
from tests.support.spawn import TACOQ, spawn

NEVER = 3600.0


@dataclass
class Two:
    """Publishers over the manager that leads and over the other."""

    leading: Publisher
    other: Publisher
    managers: list[Manager]

    @property
    def settled(self) -> list[int]:
        """Reports that each has settled."""
        return [manager.settler._done for manager in self.managers]


@pytest_asyncio.fixture
async def two(database: str, broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Two]:
    monkeypatch.setattr(notify, "REREAD_SECONDS", NEVER)
    monkeypatch.setattr(recount, "STEP_SECONDS", NEVER)
    settings = Settings(database_url=database, broker_url=broker_url, namespace=namespace, port=0)
    env = {"TACOQ_BROKER_URL": broker_url, "TACOQ_NAMESPACE": namespace}
    async with AsyncExitStack() as stack:
        managers: list[Manager] = []
        publishers: list[Publisher] = []
        for number in range(2):
            managers.append(Manager(settings, RabbitBroker(broker_url, f"manager {number}")))
            stack.push_async_callback(managers[-1].stop)
            await managers[-1].start()
            await eventually(lambda: managers[0].leader.epoch is not None, what="the first leads")
            server = HttpServer(create_app(managers[-1]), "127.0.0.1", 0)
            await server.start()
            stack.push_async_callback(server.stop)
            publishers.append(await stack.enter_async_context(Publisher(server.url)))
        stack.enter_context(spawn(TACOQ, "worker", f"{HANDLERS}:worker", env=env))
        for manager in managers:
            await eventually(lambda m=manager: m.sessions.slots("default"), 30, what="the worker has joined")  # type: ignore[misc]
            await eventually(lambda m=manager: m.sessions._managers, what="it has heard the other")  # type: ignore[misc]
        yield Two(publishers[0], publishers[1], managers)
    await delete_topology(broker_url, namespace)


async def test_tasks_over_either_run_at_once_and_waiters_at_both_are_woken(two: Two) -> None:
    """Each settles some of them: whoever waits elsewhere hears of it."""
    for number in range(40):
        over = two.other if number % 2 else two.leading
        handle = await over.publish(h.add.task(number, 1))
        views = await asyncio.gather(*(each.handle(handle.id).wait(20) for each in (two.leading, two.other)))
        assert [view.state for view in views] == [TaskState.COMPLETED] * 2
    assert min(two.settled) > 0, "one of them has settled nothing"


async def test_whichever_settles_them_tasks_are_told_to_who_listens_at_either(two: Two) -> None:
    async with two.leading.events() as here, two.other.events() as there:
        published = set()
        while min(two.settled) < 5:
            published.add((await two.leading.publish(h.add.task(1, 1))).id)
        published |= {handle.id for handle in await two.other.publish_many(h.add.task(i, 1) for i in range(200))}
        async with asyncio.timeout(30):
            for events in (here, there):
                told: set[UUID] = set()
                while told != published:
                    event = await anext(events)
                    assert isinstance(event, TaskEnd)
                    assert event.id not in told
                    told.add(event.id)


async def test_retries_and_delays_that_come_to_the_other_are_not_late(two: Two) -> None:
    handles = [await two.other.publish(h.fails_until.task(2), delay="10ms") for _ in range(10)]
    assert await asyncio.gather(*(handle.result(20) for handle in handles)) == [2] * 10


async def test_cancel_over_the_other_ends_what_waits_and_what_runs(two: Two) -> None:
    waits = await two.leading.publish(h.add.task(1, 1), delay="1h")
    runs = await two.leading.publish(h.nap.task(60.0))
    waiting = asyncio.gather(waits.wait(30), runs.wait(30))

    async def running() -> bool:
        return await runs.state() is TaskState.RUNNING

    await eventually(running)
    for handle in (waits, runs):
        await two.other.handle(handle.id).cancel()
    assert [view.state for view in await waiting] == [TaskState.CANCELLED] * 2


async def test_what_was_answered_first_is_released_first_over_whichever_it_came(two: Two) -> None:
    over = cycle((two.other, two.leading, two.other))
    handles = [await next(over).publish(h.nap.task(0.02)) for _ in range(60)]
    views = [await handle.wait(30) for handle in handles]
    # One worker starts what it is given in order; `queued_at` is when the transaction began, and had not looked yet.
    started = await two.managers[0].database.read.fetch("SELECT id FROM task_history ORDER BY started_at")
    assert [row["id"] for row in started] == [view.id for view in views]
