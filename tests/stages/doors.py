"""An accepter by itself, over real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from tacoq_manager import transitions as moves
from tacoq_manager.accept import Accepter
from tacoq_manager.metrics import Metrics
from tacoq_manager.sessions import Sessions
from tacoq_manager.store import settle
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import Database
from tacoq_manager.store.keyed_function import LOCKS, SLOTS
from tacoq_protocol.http import Accepted, ErrorInfo, NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Completed, Failed, KindSpec
from tacoq_protocol.states import TaskState
from tests.support.eventually import eventually


async def _nothing() -> None: ...


class Door:
    """An accepter whose groups are committed when the test says so."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.lanes: list[set[Lane]] = []
        self.due: list[float] = []
        self.metrics = Metrics()
        self.accepter = Accepter(
            database.accept,
            Sessions(),
            self.metrics,
            retention=timedelta(days=30),
            on_lanes=self.lanes.append,
            on_due=self.due.append,
            on_deadline=lambda _: None,
            on_strays=lambda _: None,
            on_live=lambda _: None,
            before_keys=_nothing,
            reserving=lambda _: nullcontext(),
        )

    async def answers(self, *requests: list[NewTask]) -> list[Any]:
        """Put all requests in at once, commit until all are answered; errors are answers."""
        waiting = [asyncio.ensure_future(self.accepter.accept(tasks)) for tasks in requests]
        await asyncio.sleep(0)
        while not all(task.done() for task in waiting):
            await self.accepter.step()
            await asyncio.sleep(0)
        return await asyncio.gather(*waiting, return_exceptions=True)

    async def accept(self, *tasks: NewTask) -> list[Accepted]:
        (answer,) = await self.answers(list(tasks))
        if isinstance(answer, BaseException):
            raise answer
        accepted: list[Accepted] = answer
        return accepted

    async def fetch(self, statement: str, *arguments: object) -> list[Any]:
        return await self.database.upkeep.fetch(statement, *arguments)

    async def live(self) -> list[UUID]:
        """Return the ids of all live tasks, in their order of accept."""
        return [row["id"] for row in await self.fetch("SELECT id FROM tasks ORDER BY seq")]

    async def row(self, task_id: UUID) -> Any:
        (row,) = await self.fetch("SELECT * FROM tasks WHERE id = $1", task_id)
        return row

    async def payload(self, task_id: UUID) -> bytes:
        found: bytes = (await self.row(task_id))["payload"]
        return found

    async def put_into(self, task_id: UUID, state: TaskState, *, opened: bool = False) -> None:
        """Let a live task be in `state`. `opened`: with a release that is open."""
        at = datetime.now(UTC) if opened else None
        await self.fetch("UPDATE tasks SET state = $2, queued_at = $3 WHERE id = $1", task_id, state, at)

    async def complete(self, task_id: UUID) -> None:
        """End a task as its worker's report does; one that has ended stays as it is."""
        release = await self._release(task_id)
        if release is not None:
            report = Completed(task_id, release, datetime.now(UTC), 0.1, b"2")
            assert await settle.apply(self.database.settle, [moves.complete(report, uuid4())])

    async def fail(self, task_id: UUID, *, delay: float) -> None:
        """Fail a run of a task: it is tried again after `delay`."""
        release = await self._release(task_id)
        assert release is not None
        report = Failed(task_id, release, datetime.now(UTC), 0.1, 0, ErrorInfo("E", "m"), True)
        spec = KindSpec("k", max_attempts=3)
        assert await settle.apply(self.database.settle, [moves.fail(report, uuid4(), spec, delay)])

    async def _release(self, task_id: UUID) -> int | None:
        rows = await self.fetch(
            "UPDATE tasks SET state = 'queued', release = release + 1, queued_at = now() WHERE id = $1"
            " RETURNING release",
            task_id,
        )
        return rows[0]["release"] if rows else None

    async def end_windows(self) -> None:
        """Let the window of each idempotency key be over."""
        await self.fetch("UPDATE idempotency SET expires_at = now()")

    async def forget_keys(self) -> None:
        await self.fetch("DELETE FROM idempotency")

    async def until_waiting(self, count: int, statement: str = "accept") -> None:
        """Return when so many accepts (or others) wait for a lock."""

        async def waiting() -> bool:
            (row,) = await self.fetch(
                "SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = $1 AND wait_event_type = 'Lock'",
                f"tacoq {statement}",
            )
            return bool(row["waiting"] == count)

        await eventually(waiting)

    @asynccontextmanager
    async def holding_keys(self) -> AsyncIterator[None]:
        """Hold the lock of every key meanwhile."""
        connection = await asyncpg.connect(self.database.url)
        await connection.execute(f"SELECT pg_advisory_lock({LOCKS}, slot) FROM generate_series(0, {SLOTS} - 1) AS slot")
        try:
            yield
        finally:
            await connection.close()


def task(id: UUID | None = None, payload: bytes = b"1", **options: Any) -> NewTask:
    return NewTask(id=id or new_task_id(), kind="k", payload=msgspec.Raw(payload), **options)


def reindex(doc: object = 5, why: str = "", **options: Any) -> NewTask:
    payload = msgspec.json.encode({"doc": doc, "why": why})
    return task(payload=payload, **{"unique": ("doc",), **options})


def replacing(doc: object = 5, why: str = "", **options: Any) -> NewTask:
    return reindex(doc, why, on_conflict="replace", **options)
