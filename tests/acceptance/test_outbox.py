"""The outbox between real processes: an application's transactions, a worker, forwarders and managers that die."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tacoq_publisher import Publisher, TaskNotFound, outbox
from tests.acceptance import handlers as h
from tests.publisher.outboxes import OnPostgres, on_postgres, tasks_in
from tests.support.cluster import Cluster
from tests.support.databases import Databases
from tests.support.eventually import eventually
from tests.support.spawn import Spawned


@pytest_asyncio.fixture
async def shop(databases: Databases) -> AsyncIterator[OnPostgres]:
    """An application with orders, in a database of its own."""
    name = await databases.create()
    async with on_postgres(databases.url_of(name)) as application:
        await application.execute(text("CREATE TABLE orders (number int PRIMARY KEY, task uuid NOT NULL)"))
        yield application
    await databases.drop(name)


async def order(shop: OnPostgres, number: int, *, paid: bool = True) -> UUID:
    """Place an order, with the task that deals with it; what is not paid is rolled back."""
    async with AsyncSession(shop.engine) as session:
        task_id = outbox.publish(session, h.add.task(number, 1))
        await session.execute(text("INSERT INTO orders VALUES (:number, :task)"), {"number": number, "task": task_id})
        if paid:
            await session.commit()
    return task_id


def forwarder(cluster: Cluster, shop: OnPostgres) -> Spawned:
    running = cluster.spawn("outbox", env={"TACOQ_OUTBOX_URL": shop.url})
    running.wait_for_log("the outbox is there", 30)
    return running


@pytest.mark.timeout(180)
async def test_every_order_has_its_task_once_and_in_order_whatever_is_killed(
    cluster: Cluster, shop: OnPostgres
) -> None:
    await cluster.start_manager()
    cluster.worker()
    await cluster.joined()
    closing = asyncio.Event()
    cancelled: list[UUID] = []

    async def sell() -> None:
        number = 0
        while not closing.is_set():
            number += 1
            task_id = await order(shop, number, paid=number % 3 > 0)
            if number % 3 == 0:
                cancelled.append(task_id)

    async def accepted() -> int:
        return (await cluster.states()).total()

    selling = asyncio.create_task(sell())
    for strike in range(4):
        running, before = forwarder(cluster, shop), await accepted()

        async def more(before: int = before) -> bool:
            return await accepted() > before + 20

        await eventually(more, 30, what="the forwarder forwards")
        if strike == 2:
            assert cluster.manager is not None
            cluster.manager.kill()
            await cluster.start_manager()
            await cluster.joined()
        running.kill()
    closing.set()
    await selling

    last = forwarder(cluster, shop)

    async def forwarded() -> bool:
        return not await tasks_in(shop)

    await eventually(forwarded, 30, what="the outbox is empty")
    orders = [task for (task,) in await shop.execute(text("SELECT task FROM orders ORDER BY number"))]
    assert await cluster.all_final(len(orders)) == {"completed": len(orders)}
    assert [row["id"] for row in await cluster.rows("SELECT id FROM task_history ORDER BY seq")] == orders
    async with Publisher(cluster.url) as tacoq:
        assert await tacoq.handle(orders[0]).result(10) == 2
        with pytest.raises(TaskNotFound):
            await tacoq.handle(cancelled[0]).view()
    last.terminate()
    assert last.wait() == 0


@pytest.mark.timeout(90)
async def test_what_does_not_fit_its_kind_stays_with_the_reason(cluster: Cluster, shop: OnPostgres) -> None:
    await cluster.start_manager()
    cluster.worker()
    await cluster.joined()
    async with AsyncSession(shop.engine) as session, session.begin():
        bad = outbox.publish(session, "add", {"x": "no number", "y": 1})
        good = outbox.publish(session, "add", {"x": 2, "y": 1})
    running = forwarder(cluster, shop)
    running.wait_for_log(str(bad))
    async with Publisher(cluster.url) as tacoq:
        assert await tacoq.handle(good).result(20) == 3
    ((task_id, error),) = await shop.execute(text("SELECT id, error FROM tacoq_outbox"))
    assert task_id == bad
    assert "$.x: value is not of type" in error
    running.send(signal.SIGINT)
    assert running.wait() == 0
