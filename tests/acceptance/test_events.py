"""Events through the public SDK and the command, on RabbitMQ with separate processes and embedded."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from itertools import count
from uuid import UUID

import pytest

from tacoq_publisher import EndsLost, Publisher, TaskEnd, TaskState
from tests.acceptance import handlers as h
from tests.support.eventually import eventually
from tests.support.spawn import TACOQ, spawn


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A fairness key of this test's own: others run tasks on the same manager."""
    return f"events {request.node.name}"


async def ends(events: AsyncIterator[TaskEnd | EndsLost], count: int) -> dict[UUID, TaskEnd]:
    """Return so many ends, by id."""
    found: dict[UUID, TaskEnd] = {}
    async with asyncio.timeout(30):
        while len(found) < count:
            event = await anext(events)
            assert isinstance(event, TaskEnd)
            found[event.id] = event
    return found


async def test_ends_of_every_sort_are_told_to_who_did_not_publish_them(url: str, key: str) -> None:
    async with Publisher(url) as tacoq, Publisher(url) as listener, listener.events(fairness_keys=[key]) as events:
        done = await tacoq.publish(h.add.task(2, 3), fairness_key=key, priority=3)
        failed = await tacoq.publish(h.fails.task("no reason"), fairness_key=key, max_attempts=1)
        late = await tacoq.publish("nobody.knows.this", {}, fairness_key=key, expires="200ms")
        dropped = await tacoq.publish(h.add.task(1, 1), fairness_key=key, delay="1h")
        stopped = await tacoq.publish(h.nap.task(60.0), fairness_key=key)
        await dropped.cancel()

        async def running() -> bool:
            return await stopped.state() is TaskState.RUNNING

        await eventually(running)
        await stopped.cancel()
        found = await ends(events, 5)
        assert {id: end.state for id, end in found.items()} == {
            done.id: TaskState.COMPLETED,
            failed.id: TaskState.FAILED,
            late.id: TaskState.EXPIRED,
            dropped.id: TaskState.CANCELLED,
            stopped.id: TaskState.CANCELLED,
        }
        for id, end in found.items():
            view = await tacoq.handle(id).view()
            of_both = (
                "kind",
                "queue",
                "fairness_key",
                "priority",
                "attempt",
                "created_at",
                "started_at",
                "finished_at",
            )
            assert [getattr(end, name) for name in of_both] == [getattr(view, name) for name in of_both]
            assert end.error_type == (view.error and view.error.type)


async def test_filters(url: str, key: str) -> None:
    async with (
        Publisher(url) as tacoq,
        tacoq.events(fairness_keys=[key], kinds=["fails"], states=[TaskState.FAILED], queues=["default"]) as failed,
        tacoq.events(fairness_keys=[key], states=["completed"]) as completed,
    ):
        for _ in range(3):
            await tacoq.publish(h.add.task(2, 3), fairness_key=key)
            await tacoq.publish(h.fails.task("no reason"), fairness_key=key, max_attempts=1)
        assert {end.kind for end in (await ends(failed, 3)).values()} == {"fails"}
        assert {end.kind for end in (await ends(completed, 3)).values()} == {"add"}


async def test_thousands_are_told_one_by_one(url: str, key: str) -> None:
    async with Publisher(url) as tacoq, tacoq.events(fairness_keys=[key]) as events:
        handles = await tacoq.publish_many((h.add.task(i, i) for i in range(2_000)), fairness_key=key)
        assert (await ends(events, len(handles))).keys() == {handle.id for handle in handles}


async def test_the_command_prints_a_line_for_each(url: str, key: str) -> None:
    with spawn(TACOQ, "events", "--fairness-key", key, "--json", env={"TACOQ_MANAGER_URL": url}) as command:
        async with Publisher(url) as tacoq:
            for number in count():
                handle = await tacoq.publish(h.add.task(number, 1), fairness_key=key)
                await handle.result(20)
                if command.log():  # before it listens it misses some
                    break
            handle = await tacoq.publish(h.add.task(2, 3), fairness_key=key)
            await asyncio.to_thread(command.wait_for_log, str(handle.id))
        command.send(signal.SIGINT)
        assert await asyncio.to_thread(command.wait, 10) == 0
        lines = [json.loads(line) for line in command.log().splitlines()]
        assert {(line["kind"], line["state"]) for line in lines} == {("add", "completed")}
