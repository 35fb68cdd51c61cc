"""A manager whose stages run only when the test says so, over a broker and real Postgres.

The test plays the worker: `sessions` has one with slots, `messages` are the releases that came to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from tacoq_manager.manager import Manager
from tacoq_manager.settings import Settings
from tacoq_protocol import codec
from tacoq_protocol.broker import Broker, Consumer, Consuming, Declared, Delivery, Outgoing
from tacoq_protocol.http import Accepted, NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import KindSpec, Register, Release, Report, Reports
from tests.support.eventually import eventually, others_ran


class Floor:
    """One manager, one queue, and the session that the test plays.

    What is accepted stays pending until the test dispatches, unless it is accepted `directly`.
    """

    def __init__(self, manager: Manager, worker: Broker, connection: Any) -> None:
        self.manager = manager
        self.worker = worker
        self.connection = connection
        self.session = uuid4()
        self.deliveries: list[Delivery] = []
        self.consuming: Consuming | None = None
        self._reserving = manager.accepter._reserving
        manager.accepter._reserving = lambda _: nullcontext()

    @property
    def messages(self) -> list[list[Release]]:
        """The releases that came, a list per message."""
        return [codec.decode_releases(d.format, d.body).releases for d in self.deliveries]

    @property
    def releases(self) -> list[Release]:
        return [release for message in self.messages for release in message]

    def join(
        self,
        *kinds: str,
        slots: int = 10,
        session: UUID | None = None,
        queue: str = "default",
        **policy: Any,
    ) -> None:
        """A session registers that knows these kinds, each with this policy."""
        specs = [KindSpec(kind, **policy) for kind in kinds]
        register = Register(session or self.session, queue, slots, specs, str(kinds), "host", 1, "0", datetime.now(UTC))
        self.manager.sessions.register(register, time.monotonic())

    async def accept(self, count: int = 1, kind: str = "k", *, payload: bytes = b"1", **options: Any) -> list[UUID]:
        """Accept tasks in one batch; return their ids."""
        tasks = [
            NewTask(id=new_task_id(), kind=kind, payload=msgspec.Raw(payload), **{"queue": "default", **options})
            for _ in range(count)
        ]
        return [task.id for task in await self.accepted(self.manager.accepter.accept(tasks))]

    async def accepted(self, asked: Coroutine[Any, Any, list[Accepted]]) -> list[Accepted]:
        """Return what this accept or commit is answered, after one step of the accepter."""
        accepting = asyncio.ensure_future(asked)
        await others_ran()
        await self.manager.accepter.step()
        return await accepting

    @contextmanager
    def directly(self) -> Iterator[None]:
        """What is accepted meanwhile is released by the same statement where that may be."""
        accepter = self.manager.accepter
        without, accepter._reserving = accepter._reserving, self._reserving
        yield
        accepter._reserving = without

    async def dispatch(self) -> int:
        """Dispatch until nothing more may go; return how many releases came to the worker."""
        before = len(self.releases)
        released = 0
        while step := await self.manager.dispatcher.step():
            released += step
        await eventually(lambda: len(self.releases) == before + released)
        return released

    async def report(self, *reports: Report) -> None:
        """Send reports as the session and settle what has arrived."""
        await self.send(codec.encode(Reports(self.session, "default", list(reports))))

    async def send(self, body: bytes, format: str = codec.REPORTS.name) -> None:
        """Send a message of reports and settle it."""
        topology = self.manager.topology
        message = Outgoing(topology.reports.name, topology.reports_queue.name, format, body)
        await self.worker.publish([message], seconds=5)
        await eventually(lambda: bool(self.manager.settler._arrived))
        await self.manager.settler.step()

    async def state(self, task_id: UUID) -> str:
        rows = await self.connection.fetch(
            "SELECT state FROM tasks WHERE id = $1 UNION ALL SELECT state FROM task_history WHERE id = $1", task_id
        )
        (row,) = rows
        found: str = row["state"]
        return found

    async def row(self, task_id: UUID) -> asyncpg.Record:
        (row,) = await self.connection.fetch("SELECT * FROM tasks WHERE id = $1", task_id)
        found: asyncpg.Record = row
        return found


@asynccontextmanager
async def standing(settings: Settings, connect: Callable[[str], Broker]) -> AsyncIterator[Floor]:
    """A manager that leads, with the broker connected, and no stage at work."""
    manager, worker = Manager(settings, connect("manager")), connect("worker")
    connection = await asyncpg.connect(settings.database_url)
    floor = Floor(manager, worker, connection)
    topology = manager.topology
    things = Declared(
        topology.exchanges,
        [*topology.fixed_queues, topology.task_queue("default")],
        [*topology.fixed_bindings, topology.task_binding("default")],
    )
    for broker in (manager.broker, worker):
        await broker.start()
        await broker.declare(things)
        await broker.wait_open(5)
    floor.consuming = await worker.consume(Consumer(topology.task_queue("default"), floor.deliveries.append))
    reports = Consumer(topology.reports_queue, manager.settler.on_delivery)
    manager.outstanding.consuming = await manager.broker.consume(reports)
    await manager.leader.step()
    try:
        yield floor
    finally:
        await worker.stop()
        await manager.stop()
        await connection.close()
