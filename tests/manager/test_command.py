"""`tacoq manager` as a process on real servers: starts, serves, stops in good order; says why it cannot."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import aiohttp
import pytest

from tacoq_protocol.ids import new_task_id
from tests.support import Spawned, eventually, spawn
from tests.support.spawn import TACOQ


def environment(database: str, broker_url: str, namespace: str) -> dict[str, str]:
    return {"TACOQ_DATABASE_URL": database, "TACOQ_BROKER_URL": broker_url, "TACOQ_NAMESPACE": namespace}


def url_in(log: str) -> str:
    return log.split("url")[1].split('"')[2]


async def started(process: Spawned) -> str:
    await eventually(lambda: "manager started" in process.log() or not process.running, 20)
    assert process.running, process.log()
    return url_in(process.log())


async def test_it_serves_until_sigterm_and_ends_waits_and_itself_in_good_order(
    database: str, broker_url: str, namespace: str
) -> None:
    with spawn(TACOQ, "manager", "--port", "0", env=environment(database, broker_url, namespace)) as process:
        url = await started(process)
        async with aiohttp.ClientSession(url) as http:

            async def ready() -> bool:
                async with http.get("/readyz") as response:
                    return bool((await response.json())["broker"] == "open")

            await eventually(ready)
            task = {"id": str(new_task_id()), "kind": "add"}
            async with http.post("/v1/tasks", json=task) as response:
                assert response.status == 201
            wait = http.post("/v1/tasks/wait", json={"ids": [task["id"]], "timeout": 60})
            async with http.get("/v1/events") as events, wait as response:
                process.terminate()
                assert await response.read() == b""
                assert (await events.read()).count(b"event: ") == 1
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert process.log().count("broker connected") == 1
        assert "broker link" not in process.log()
        assert "manager stopped" in process.log()
        assert "ERROR" not in process.log()


async def test_it_starts_and_accepts_while_the_broker_is_away(database: str, namespace: str) -> None:
    away = environment(database, "amqp://guest:guest@127.0.0.1:1/", namespace)
    with spawn(TACOQ, "manager", "--port", "0", env=away) as process:
        url = await started(process)
        async with aiohttp.ClientSession(url) as http:
            async with http.post("/v1/tasks", json={"id": str(new_task_id()), "kind": "add"}) as response:
                assert response.status == 201
            async with http.get("/readyz") as response:
                assert (await response.json())["broker"] == "closed"
        process.send(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 20) == 0


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TACOQ_PORT": "many"}, "TACOQ_PORT"),
        ({"TACOQ_NAMESPACE": "a.b"}, "TACOQ_NAMESPACE"),
        ({"TACOQ_DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/none"}, "Postgres is not reachable"),
        (
            {"TACOQ_DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/none"},
            "says postgresql://me:***@127.0.0.1:1/none",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_1(variables: dict[str, str], said: str) -> None:
    with spawn(TACOQ, "manager", env=variables) as process:
        assert process.wait(20) == 1
        (line,) = process.log().splitlines()
        assert line.startswith("tacoq: ")
        assert said in line
        assert "secret" not in line


def test_a_redis_that_is_not_there_is_said_so_without_its_password(
    database: str, broker_url: str, namespace: str
) -> None:
    away = {"TACOQ_RESULTS_URL": "redis://me:secret@127.0.0.1:1/0"}
    with spawn(TACOQ, "manager", "--port", "0", env=environment(database, broker_url, namespace) | away) as process:
        assert process.wait(20) == 1
        last = process.log().splitlines()[-1]
        assert last.startswith("tacoq: the Redis of TACOQ_RESULTS_URL (redis://127.0.0.1:1/0) cannot keep results: ")
        assert "secret" not in process.log()


def test_an_address_that_is_taken_is_said_so(database: str, broker_url: str, namespace: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with spawn(TACOQ, "manager", "--port", port, env=environment(database, broker_url, namespace)) as process:
            assert process.wait(20) == 1
            assert f"cannot serve on 127.0.0.1:{port}" in process.log()


def test_sigterm_at_any_moment_of_the_start_ends_it(database: str, broker_url: str, namespace: str) -> None:
    for seconds in (0.6, 1.2, 1.8):
        with spawn(TACOQ, "manager", "--port", "0", env=environment(database, broker_url, namespace)) as process:
            time.sleep(seconds)  # not for luck: any moment will do
            process.terminate()
            assert process.wait(20) in (0, -signal.SIGTERM)
