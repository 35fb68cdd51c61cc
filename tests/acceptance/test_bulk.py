"""Many tasks at once, on RabbitMQ with separate processes and embedded: cancelled, and what was cancelled retried."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import aiohttp
from click.testing import CliRunner

from tacoq_protocol.cli import tacoq
from tacoq_publisher import Publisher, TaskState
from tests.acceptance import handlers as h
from tests.support.eventually import eventually


async def post(url: str, path: str, **body: Any) -> Any:
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/tasks/{path}", json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_a_mix_of_states_is_cancelled_and_then_retried(url: str) -> None:
    began = datetime.now(UTC).isoformat()
    async with Publisher(url) as publisher:
        naps = await publisher.publish_many(h.nap.task(60.0) for _ in range(h.worker.concurrency + 5))
        sums = await publisher.publish_many((h.add.task(i, 1) for i in range(300)), delay="1h")

        async def all_slots_are_taken() -> bool:
            states = Counter([await handle.state() for handle in naps])
            return states[TaskState.RUNNING] == h.worker.concurrency

        await eventually(all_slots_are_taken)
        filter: dict[str, Any] = {"queue": "default", "created_after": began}
        counted = await post(url, "cancel", filter=filter)
        assert counted["count"] == len(naps) + len(sums)
        done = await post(url, "cancel", filter=filter, most=counted["count"], as_of=counted["as_of"])
        assert done["done"] + done["requested"] == counted["count"]
        assert done["requested"] >= h.worker.concurrency
        for handles in (naps, sums):
            views = await asyncio.gather(*(handle.wait(20) for handle in handles))
            assert {view.state for view in views} == {TaskState.CANCELLED}

        filter = {"kind": "add", "state": ["cancelled"], "created_after": began}
        counted = await post(url, "retry", filter=filter)
        assert counted["count"] == len(sums)
        for expected in (len(sums), 0):  # a second time nothing is left to retry
            done = await post(url, "retry", filter=filter, most=counted["count"], as_of=counted["as_of"])
            assert done["done"] == expected
        retries = await completed_retries(url, began, len(sums))
        assert sorted(retries) == sorted(str(handle.id) for handle in sums)


async def test_the_commands_cancel_and_retry_many(url: str) -> None:
    async def tacoq_prints(*args: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, tacoq, [*args, "--yes", "--url", url])
        assert result.exit_code == 0, result.output
        return result.stdout

    async with Publisher(url) as publisher:
        await publisher.publish_many(("nobody.knows", i) for i in range(25))
        assert "cancelled: 25\n" in await tacoq_prints("cancel", "--kind", "nobody.knows", "--created-after", "5m")
        assert "retried: 25\n" in await tacoq_prints("retry", "--kind", "nobody.knows", "--state", "cancelled")
        assert "tasks\n" in await tacoq_prints("retry", "--kind", "nobody.knows", "--state", "cancelled")
        assert "cancelled: 25\n" in await tacoq_prints("cancel", "--kind", "nobody.knows", "--state", "pending")


async def completed_retries(url: str, began: str, count: int) -> list[str]:
    """Wait until so many retries are completed; return what they are retries of."""
    query = {"kind": "add", "state": "completed", "created_after": began, "limit": "500"}

    async def all_of_them() -> list[str]:
        async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/tasks", params=query) as answer:
            found = [task["retry_of"] for task in (await answer.json())["tasks"] if "retry_of" in task]
            return found if len(found) >= count else []

    return await eventually(all_of_them, 20)
