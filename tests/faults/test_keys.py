"""The manager dies when it has accepted tasks with keys, and told nobody: each key has one task, nothing is undone."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import aiohttp
import pytest

from tacoq_protocol.ids import new_task_id
from tacoq_publisher import Publisher
from tests.faults.field import Field
from tests.faults.kill_point import Point, program

LATER = {"delay": 3600}


def task(key: str, change: int, **options: Any) -> dict[str, Any]:
    return {"id": str(new_task_id()), "kind": "add", "payload": {"x": key, "y": change}, **LATER, **options}


class Door:
    """The HTTP door of a field whose manager dies on demand."""

    def __init__(self, field: Field, http: aiohttp.ClientSession) -> None:
        self._field = field
        self._http = http

    async def send(self, task: dict[str, Any]) -> dict[str, Any]:
        async with self._http.post(f"{self._field.url}/v1/tasks", json=task) as answer:
            found: dict[str, Any] = await answer.json(content_type=None)
            assert answer.status in (200, 201), found
            return found

    async def send_in_vain(self, task: dict[str, Any]) -> None:
        """Let the manager die between the commit and the answer, and start another."""
        await killed_by(self._field, self.send(task))
        await self._field.begin_and_wait()

    async def payload(self, task_id: str) -> Any:
        async with self._http.get(f"{self._field.url}/v1/tasks/{task_id}?payload=true") as answer:
            return (await answer.json())["payload"]


async def killed_by(field: Field, sending: Any) -> None:
    manager = field.manager
    assert manager is not None
    field.strike("manager killed when it had accepted tasks with keys", 0)
    manager.send(signal.SIGUSR1)
    with pytest.raises(aiohttp.ClientError):
        await sending
    assert await asyncio.to_thread(manager.wait, 20) == -signal.SIGKILL


@pytest.mark.timeout(150)
async def test_manager_killed_when_it_had_accepted_tasks_with_keys(field: Field) -> None:
    field.manager_program = program(Point.ACCEPTED)
    await field.up()
    async with aiohttp.ClientSession() as http:
        door = Door(field, http)

        once, again = (task("once", change, idempotency_key="once") for change in (1, 1))
        await door.send_in_vain(once)
        assert (await door.send(again))["id"] == once["id"]
        assert await door.send(once) == {"id": once["id"], "state": "scheduled", "duplicate": True}

        options: dict[str, Any] = {"unique": ["x"], "on_conflict": "replace"}
        first, second, third = (task("changes", change, **options) for change in (1, 2, 3))
        await door.send(first)
        await door.send_in_vain(second)
        assert await door.payload(first["id"]) == second["payload"], "it was committed"
        await door.send(third)
        for resent in (second, first):
            assert (await door.send(resent))["id"] == first["id"]
        assert await door.payload(first["id"]) == third["payload"], "a resend undoes nothing"

        await door.send_in_vain(rejecting := task("rejecting", 1, unique=["x"], on_conflict="reject"))
        assert (await door.send(rejecting))["duplicate"], "its own task does not reject it"
        assert len(await field.rows("SELECT FROM tasks")) == 3


@pytest.mark.timeout(150)
async def test_publishers_go_on_while_the_manager_dies_and_agree_on_one_task_a_key(field: Field) -> None:
    field.manager_program = program(Point.ACCEPTED)
    await field.up("worker")
    async with Publisher(field.url, retry_for="60s") as one, Publisher(field.url, retry_for="60s") as other:
        for attempt in range(3):
            manager = field.manager
            assert manager is not None
            manager.send(signal.SIGUSR1)
            keys = [f"{attempt}-{number}" for number in range(30)]
            publishing = asyncio.gather(
                *(one.publish("add", {"x": 1, "y": 2}, idempotency_key=key) for key in keys),
                *(other.publish("add", {"x": 1, "y": 2}, idempotency_key=key) for key in reversed(keys)),
            )
            assert await asyncio.to_thread(manager.wait, 20) == -signal.SIGKILL
            await field.begin_and_wait()
            handles = await publishing
            assert [handle.id for handle in handles[:30]] == [handle.id for handle in handles[:29:-1]]
            assert {await handle.result(30) for handle in handles} == {3}
    runs = await field.effects.runs()
    assert len(runs) == len({run.task_id for run in runs}) == 90
