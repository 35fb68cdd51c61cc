"""A publish that is sent again: answered, compared, and run once, whatever becomes of its task meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import aiohttp
import asyncpg

from tacoq_manager import transitions as moves
from tacoq_manager.store import accept, settle
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.store.functions import ACCEPT_FUNCTION
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Completed
from tacoq_protocol.states import TaskState
from tests.support.eventually import eventually
from tests.support.systems import System

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RELEASED = "UPDATE tasks SET state = 'queued', release = 1 WHERE id = $1"


def task(kind: str, **payload: object) -> dict[str, Any]:
    return {"id": str(new_task_id()), "kind": kind, "payload": payload}


class Door:
    """The HTTP door of a system, and what the database then holds."""

    def __init__(self, system: System, http: aiohttp.ClientSession) -> None:
        self._system = system
        self._http = http

    async def send(self, task: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        async with self._http.post(f"{self._system.url}/v1/tasks", json=task) as answer:
            return answer.status, await answer.json(content_type=None)

    async def ended(self, task: dict[str, Any]) -> str:
        async with self._http.get(f"{self._system.url}/v1/tasks/{task['id']}?wait=20") as answer:
            state: str = (await answer.json())["state"]
            return state

    async def rows(self, tasks: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
        """Return table, state and release of all that is stored of these tasks."""
        connection = await asyncpg.connect(self._system.database)
        try:
            return [
                (table, row["state"], row["release"])
                for table in ("tasks", "task_history")
                for row in await connection.fetch(
                    f"SELECT state, release FROM {table} WHERE id = ANY ($1)", [UUID(task["id"]) for task in tasks]
                )
            ]
        finally:
            await connection.close()


async def test_resend_of_a_live_task_is_a_duplicate(system: System) -> None:
    async with aiohttp.ClientSession() as http:
        door, nap = Door(system, http), task("nap", seconds=0.5)
        assert (await door.send(nap))[0] == 201
        answers = await asyncio.gather(*(door.send(nap) for _ in range(5)))
        assert {(status, answer["duplicate"]) for status, answer in answers} == {(200, True)}
        assert await door.ended(nap) == "completed"
        assert await door.rows([nap]) == [("task_history", "completed", 1)]


async def test_resend_after_completion_tells_so_and_runs_nothing(system: System) -> None:
    async with aiohttp.ClientSession() as http:
        door, add = Door(system, http), task("add", x=1, y=2)
        await door.send(add)
        assert await door.ended(add) == "completed"
        assert await door.send(add) == (200, {"id": add["id"], "state": "completed", "duplicate": True})
        assert await door.rows([add]) == [("task_history", "completed", 1)]


async def test_other_content_is_a_conflict_while_live_and_after_completion(system: System) -> None:
    async with aiohttp.ClientSession() as http:
        door, nap = Door(system, http), task("nap", seconds=0.3)
        other = nap | {"payload": {"seconds": 0.0}}
        await door.send(nap)
        status, problem = await door.send(other)
        assert (status, problem["task_id"]) == (409, nap["id"])
        assert await door.ended(nap) == "completed"
        assert (await door.send(other))[0] == 409
        assert await door.rows([nap]) == [("task_history", "completed", 1)]


async def test_resends_that_race_with_the_settle_find_the_task_on_either_side(system: System) -> None:
    """Each task is sent again and again until an answer says that it has ended: some come before, one after.

    Tasks that last, and end one after the other: those that do nothing may all end before the first resend.
    """
    found: Counter[str] = Counter()

    async def again_and_again(door: Door, nap: dict[str, Any]) -> None:
        assert (await door.send(nap))[0] == 201
        async with asyncio.timeout(20):
            while True:
                status, answer = await door.send(nap)
                assert (status, answer["duplicate"]) == (200, True), answer
                found[answer["state"]] += 1
                if answer["state"] == "completed":
                    return

    async with aiohttp.ClientSession() as http:
        door = Door(system, http)
        for _ in range(6):
            tasks = [task("nap", seconds=0.3 + number / 50) for number in range(10)]
            await asyncio.gather(*(again_and_again(door, nap) for nap in tasks))
            # Whatever their releases: what stood in a message behind a run that lasts is handed back.
            assert [row[:2] for row in await door.rows(tasks)] == [("task_history", "completed")] * len(tasks)
    assert found["completed"] == 60
    assert found.total() - found["completed"] > 20, f"the resends hardly raced: {found}"


class Race:
    """One released task; a settle that holds its row in an open transaction; a resend that waits for it."""

    def __init__(self, url: str, settling: asyncpg.Connection[Any], look: asyncpg.Connection[Any]) -> None:
        self.url, self.settling, self.look = url, settling, look
        unset = [None] * 9  # times, limits, retry_of and trace
        self.row = accept.Row._make([new_task_id(), "k", "q", 0, "", b"1", b"f" * 16, *unset, True])

    async def resend(self, *, commit: bool) -> accept.Stored:
        """Settle and resend so that the resend's insert meets the settle's row; return its answer."""
        accepting = HotConnection(self.url, "accept", setup=ACCEPT_FUNCTION)
        try:
            await accept.accept(accepting, [self.row])
            await self.look.execute(RELEASED, self.row.id)
            transaction = self.settling.transaction()
            await transaction.start()
            report = Completed(self.row.id, 1, NOW, 0.1, b"2")
            assert await settle.apply(cast("HotConnection", self.settling), [moves.complete(report, uuid4())])
            resending = asyncio.create_task(accept.accept(accepting, [self.row]))
            await eventually(self.somebody_waits)
            await (transaction.commit() if commit else transaction.rollback())
            return (await resending)[self.row.id]
        finally:
            await accepting.close()

    async def somebody_waits(self) -> bool:
        return bool(
            await self.look.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )

    async def live(self) -> int:
        count: int = await self.look.fetchval("SELECT count(*) FROM tasks")
        return count


async def test_resend_that_waited_for_the_settle_of_its_task_stores_nothing(either_database: str) -> None:
    """Its insert finds the row deleted when the settle commits, and must then look into the history."""
    settling, look = await asyncpg.connect(either_database), await asyncpg.connect(either_database)
    try:
        race = Race(either_database, settling, look)
        assert (await race.resend(commit=True))[:2] == (TaskState.COMPLETED, True)
        assert await race.live() == 0
        race = Race(either_database, settling, look)
        assert (await race.resend(commit=False))[:2] == (TaskState.QUEUED, True)
        assert await race.live() == 1
    finally:
        await settling.close()
        await look.close()
