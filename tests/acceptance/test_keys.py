"""Idempotency, uniqueness and debounce through the public SDK, on RabbitMQ with separate processes and embedded."""

from __future__ import annotations

import asyncio
import json
import os
from uuid import uuid4

import pytest
from click.testing import CliRunner

from tacoq_protocol.cli import tacoq as command
from tacoq_publisher import Publisher, SyncPublisher, TaskExists, TaskState
from tests.acceptance import handlers as h


def fresh() -> str:
    """A key that no other test has."""
    return f"key-{uuid4()}"


async def test_idempotency_key_makes_one_task_before_and_after_its_end(url: str) -> None:
    key = fresh()
    async with Publisher(url) as tacoq:
        handles = await asyncio.gather(*(tacoq.publish(h.add.task(2, 3), idempotency_key=key) for _ in range(50)))
        assert len({handle.id for handle in handles}) == 1
        assert sum(not handle.duplicate for handle in handles) == 1
        assert await asyncio.gather(*(handle.result(20) for handle in handles)) == [5] * 50
        again = await tacoq.publish(h.add.task(2, 3), idempotency_key=key)
        assert (again.id, again.duplicate, await again.state()) == (handles[0].id, True, TaskState.COMPLETED)
        assert await again.result(20) == 5
        assert (await again.view()).release == 1


async def test_many_that_are_published_again_are_the_same_tasks(url: str) -> None:
    key = fresh()
    async with Publisher(url) as tacoq:
        once = await tacoq.publish_many((h.add.task(i, 1) for i in range(1_200)), idempotency_key=key)
        again = await tacoq.publish_many((h.add.task(i, 1) for i in range(1_200)), idempotency_key=key)
        assert [handle.id for handle in again] == [handle.id for handle in once]
        results = [await handle.result() async for handle in tacoq.as_completed([*once, *again], timeout=50)]
        assert sorted(results) == sorted([*range(1, 1_201), *range(1, 1_201)])


async def test_one_live_task_of_a_unique_payload(url: str) -> None:
    async with Publisher(url) as tacoq:
        call = h.add.task(int.from_bytes(os.urandom(4)), 1)
        handles = await asyncio.gather(*(tacoq.publish(call, unique=True, delay="1h") for _ in range(10)))
        assert len({handle.id for handle in handles}) == 1
        with pytest.raises(TaskExists) as caught:
            await tacoq.publish(call, unique=True, on_conflict="reject")
        assert caught.value.task_id == handles[0].id
        await handles[0].cancel()
        assert (await tacoq.publish(call, unique=True, on_conflict="reject")).id != handles[0].id


async def test_debounce_runs_once_with_the_last_payload(url: str) -> None:
    key = int.from_bytes(os.urandom(4))
    async with Publisher(url) as tacoq:
        handles = []
        for change, delay in enumerate(["1h"] * 9 + ["100ms"]):
            call = h.add.task(key, change)
            handles.append(await tacoq.publish(call, unique=("x",), on_conflict="replace", delay=delay))
        assert len({handle.id for handle in handles}) == 1
        assert await asyncio.gather(*(handle.result(20) for handle in handles)) == [key + 9] * 10
        assert (await handles[0].view()).release == 1


async def test_replaced_task_runs_by_its_new_options(url: str) -> None:
    """From far away to at once, to other workers, with another payload."""
    key = int.from_bytes(os.urandom(4))
    async with Publisher(url) as tacoq:
        first = await tacoq.publish("add_in_process", {"x": key, "y": 1}, unique=("x",), delay="1h", queue="nobody")
        second = await tacoq.publish("add_in_process", {"x": key, "y": 2}, unique=("x",), on_conflict="replace")
        assert (second.id, second.duplicate) == (first.id, True)
        total, _ = await first.result(20)
        assert (total, (await first.view()).queue) == (key + 2, "processes")


async def test_blocking_publisher_and_command_know_the_keys(url: str) -> None:
    def use() -> None:
        key = fresh()
        with SyncPublisher(url) as tacoq:
            first = tacoq.publish("add", {"x": 1, "y": 2}, idempotency_key=key)
            (many,) = tacoq.publish_many([h.add.task(1, 2)], idempotency_key=key)
            assert (first.result(20), many.result(20)) == (3, 3)
            assert many.id != first.id
        options = ["--url", url, "--json", "--idempotency-key", key, "--idempotency-window", "24h"]
        published = CliRunner().invoke(command, ["publish", "add", '{"x": 1, "y": 2}', *options])
        assert json.loads(published.output) == {"id": str(first.id), "kind": "add", "duplicate": True}
        later = ["publish", "add", '{"x": 1, "y": 2}', "--url", url, "--delay", "1h", "--queue", key]
        unique = [*later, "--unique", "x", "--unique", "y"]
        ids = [CliRunner().invoke(command, arguments).output for arguments in (unique, unique)]
        assert ids[0] == ids[1] != ""
        rejected = CliRunner().invoke(command, [*unique, "--on-conflict", "reject"])
        assert isinstance(rejected.exception, TaskExists)
        whole = CliRunner().invoke(command, [*later, "--unique-payload", "--json"])
        assert json.loads(whole.output)["duplicate"] is False

    await asyncio.to_thread(use)
