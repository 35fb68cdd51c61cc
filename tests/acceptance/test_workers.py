"""Workers drained, resumed and looked at, on RabbitMQ with separate processes and embedded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from click.testing import CliRunner

from tacoq_protocol.cli import tacoq
from tacoq_publisher import Publisher, TaskState
from tests.acceptance import handlers as h
from tests.support.eventually import eventually


async def prints(*args: str, url: str) -> Any:
    """Run a command; return the JSON that it prints."""
    result = await asyncio.to_thread(CliRunner().invoke, tacoq, [*args, "--json", "--url", url])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def queue(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/queues") as answer:
        queues: dict[str, dict[str, Any]] = {each["name"]: each for each in (await answer.json())["queues"]}
        return queues["default"]


async def test_a_drained_worker_ends_what_runs_and_takes_nothing_until_it_is_resumed(url: str) -> None:
    async with Publisher(url) as publisher:
        runs = await publisher.publish(h.nap.task(3.0))

        async def it_runs() -> str:
            (worker,) = [w for w in (await prints("workers", url=url))["workers"] if w["queue"] == "default"]
            session: str = worker["session"]
            running = (await prints("workers", "show", session, url=url))["running"]
            return session if [run["id"] for run in running] == [str(runs.id)] else ""

        session = await eventually(it_runs)
        try:
            (worker,) = (await prints("workers", "drain", session, url=url))["workers"]
            assert (worker["session"], worker["state"]) == (session, "draining")
            assert (await queue(url))["slots"] == 0
            waits = await publisher.publish(h.add.task(2, 3))
            assert await runs.result(20) == 3.0
            assert await waits.state() is TaskState.PENDING
        finally:
            await prints("workers", "resume", "--queue", "default", url=url)
        assert await waits.result(20) == 5
        assert (await queue(url))["slots"] == h.worker.concurrency


async def test_labels_are_shown_and_find_workers(url: str) -> None:
    """Those of the code, and those of where it runs, which go before."""
    (found,) = (await prints("workers", "--label", "region=eu", "--label", "team=tacos", url=url))["workers"]
    assert (found["queue"], found["labels"]) == ("default", {"region": "eu", "team": "tacos"})
    assert (await prints("workers", "--label", "region=us", url=url))["workers"] == []
    result = await asyncio.to_thread(CliRunner().invoke, tacoq, ["workers", "--url", url])
    assert "region=eu, team=tacos" in result.stdout
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/workers?label=region") as answer:
        assert answer.status == 422
        assert "'region' is not a label: write NAME=VALUE" in (await answer.json())["detail"]
