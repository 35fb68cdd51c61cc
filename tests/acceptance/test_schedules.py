"""Schedules from code, over HTTP and by the command, on RabbitMQ with separate processes and embedded."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from click.testing import CliRunner

from tacoq_protocol.cli import tacoq
from tacoq_protocol.errors import InvalidSchedule, ScheduleConflict, ScheduleNotFound
from tacoq_publisher import Publisher
from tests.acceptance import handlers as h
from tests.support.cluster import Cluster
from tests.support.eventually import eventually

EVERY_SECOND = {"kind": "tick", "cron": "* * * * * *", "queue": "default"}


async def ask(url: str, method: str, path: str, **options: Any) -> Any:
    async with aiohttp.ClientSession() as http, http.request(method, f"{url}/v1{path}", **options) as answer:
        text = await answer.text()
        assert answer.status < 300, text
        return json.loads(text or "null")


async def ticks(url: str) -> list[dict[str, Any]]:
    """The tasks of kind `tick`, oldest first."""
    page = await ask(url, "GET", "/tasks?kind=tick&limit=500")
    tasks: list[dict[str, Any]] = page["tasks"]
    return sorted(tasks, key=lambda task: str(task["run_at"]))


def fire_times(tasks: list[dict[str, Any]]) -> list[datetime]:
    return [datetime.fromisoformat(task["run_at"]) for task in tasks]


@pytest_asyncio.fixture
async def name(url: str) -> AsyncIterator[str]:
    """The name of a schedule that is gone afterwards: the system is shared."""
    chosen = f"test-{os.urandom(4).hex()}"
    yield chosen
    async with aiohttp.ClientSession() as http, http.delete(f"{url}/v1/schedules/{chosen}") as answer:
        assert answer.status in (204, 404)


async def test_it_fires_at_each_of_its_times_and_the_tasks_run(url: str, name: str) -> None:
    await ask(url, "PUT", f"/schedules/{name}", json=EVERY_SECOND)

    async def three() -> bool:
        return len([task for task in await ticks(url) if task["state"] == "completed"]) >= 3

    await eventually(three, 30)
    await ask(url, "POST", f"/schedules/{name}/pause")
    times = fire_times(await ticks(url))
    assert times == [times[0] + timedelta(seconds=n) for n in range(len(times))]


async def test_a_schedule_in_code_is_there_and_its_handler_runs(url: str) -> None:
    async def declared() -> Any:
        found = (await ask(url, "GET", "/schedules"))["schedules"]
        return next((view for view in found if view["name"] == "reports.nightly"), None)

    view = await eventually(declared, 30)
    assert (view["source"], view["cron"], view["timezone"]) == ("code", "0 3 29 2 *", "Europe/Lisbon")
    assert datetime.fromisoformat(view["next_fire_at"]).day == 29
    accepted = await ask(url, "POST", "/schedules/reports.nightly/run")
    async with Publisher(url) as publisher:
        assert await publisher.handle(accepted["id"]).result(20) == "report of yesterday"
        assert await (await publisher.publish(h.nightly.task("today"))).result(20) == "report of today"


async def test_the_command_makes_pauses_resumes_runs_and_removes_a_schedule(url: str, name: str) -> None:
    async def command(*arguments: str) -> str:
        result = await asyncio.to_thread(
            CliRunner().invoke, tacoq, ["schedules", *arguments], env={"TACOQ_MANAGER_URL": url}
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    added = await command(
        *("add", name, "add", "0 3 * * MON", '{"x": 2, "y": 3}', "--timezone", "Europe/Lisbon", "--missed", "run_all"),
        *("--priority", "7", "--expires", "1h", "--queue", "default"),
    )
    assert added.startswith(f"{name} fires next at 20")
    found = await ask(url, "GET", f"/schedules/{name}")
    expected = {"payload": {"x": 2, "y": 3}, "timezone": "Europe/Lisbon", "missed": "run_all", "priority": 7}
    assert {field: found[field] for field in expected} == expected
    assert found["expires_in"] == 3600
    assert await command("pause", name) == f"{name} is paused\n"
    listed = await command()
    (line,) = [line for line in listed.splitlines() if line.startswith(name)]
    assert line.split()[1:3] == ["add", "default"]
    assert "paused" in line
    async with Publisher(url) as publisher:
        assert await publisher.handle((await command("run", name)).strip()).result(20) == 5
    assert (await command("resume", name)).startswith(f"{name} fires next at 20")
    assert json.loads(await command("resume", name, "--json"))["name"] == name
    assert name in {view["name"] for view in json.loads(await command("--json"))["schedules"]}
    assert await command("rm", name) == f"{name} is removed\n"
    with pytest.raises(ScheduleNotFound, match=f"no schedule has the name '{name}'"):
        await command("pause", name)
    with pytest.raises(InvalidSchedule, match="bad minute") as refused:
        await command("add", name, "add", "99 * * * *")
    assert refused.value.field == "cron"
    with pytest.raises(InvalidSchedule, match="does not fit kind 'add'"):
        await command("add", name, "add", "9 * * * *", "5", "--queue", "default")
    with pytest.raises(ScheduleConflict, match="declared by the code"):
        await command("rm", "reports.nightly")


@pytest.mark.timeout(120)
async def test_the_leader_is_killed_and_no_fire_time_is_lost_or_comes_twice(
    cluster: Cluster, broker_url: str, namespace: str
) -> None:
    first = await cluster.start_manager()
    first.wait_for_log("leadership taken", 30)
    second = Cluster(cluster.database, broker_url, namespace)
    with second:
        await second.start_manager()
        await ask(second.url, "PUT", "/schedules/ticks", json=EVERY_SECOND)
        await eventually(lambda: _made(second.url, 2), 30)
        first.kill()
        killed = len(await ticks(second.url))
        assert second.manager is not None
        await asyncio.to_thread(second.manager.wait_for_log, "leadership taken", 30)
        await eventually(lambda: _made(second.url, killed + 3), 30)
        times = fire_times(await ticks(second.url))
    assert times == [times[0] + timedelta(seconds=n) for n in range(len(times))]


async def _made(url: str, count: int) -> bool:
    return len(await ticks(url)) >= count
