"""TacoQ as separate processes on given servers, in a database and a namespace of a test's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

import aiohttp
import asyncpg

from scripts.probes import free_port
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tests.support.eventually import eventually
from tests.support.spawn import TACOQ, Spawned, spawn

HANDLERS = "tests.acceptance.handlers"


class Cluster:
    """One manager on one port, workers by name. Everything ends with the block."""

    def __init__(self, database: str, broker_url: str, namespace: str, *, handlers: str = HANDLERS) -> None:
        self.database = database
        self.namespace = namespace
        self._broker_url = broker_url
        self.handlers = handlers
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {
            "TACOQ_DATABASE_URL": database,
            "TACOQ_BROKER_URL": broker_url,
            "TACOQ_NAMESPACE": namespace,
            "TACOQ_MANAGER_URL": self.url,
        }
        self._stack = ExitStack()
        self.manager: Spawned | None = None
        self.spawned: list[Spawned] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def spawn(
        self, *arguments: str, env: Mapping[str, str] | None = None, program: Sequence[str] = (TACOQ,)
    ) -> Spawned:
        """Run `tacoq …`, or another program, until the block ends. `env` goes before the cluster's own."""
        process: AbstractContextManager[Spawned] = spawn(*program, *arguments, env={**self._env, **(env or {})})
        self.spawned.append(self._stack.enter_context(process))
        return self.spawned[-1]

    def make_broker(self, name: str) -> RabbitBroker:
        """Make a client of the broker for the test itself."""
        return RabbitBroker(self._broker_url, name)

    def worker(self, name: str = "worker", *options: str) -> Spawned:
        """Start `tacoq worker`; it may not have joined when this returns: `joined` waits."""
        return self.spawn("worker", f"{self.handlers}:{name}", *options)

    async def start_manager(self, *, env: Mapping[str, str] | None = None) -> Spawned:
        """Start the manager and wait until it accepts."""
        self.manager = self.spawn("manager", "--port", str(self.port), env=env)
        self.manager.wait_for_log("manager started", 30)
        await eventually(self.ready, 30, what="the manager is ready")
        return self.manager

    async def ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def get(self, path: str) -> Any:
        """Return what the manager answers, decoded."""
        return json.loads(await self.text(path))

    async def text(self, path: str) -> str:
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}{path}") as answer:
            return await answer.text()

    async def joined(self, sessions: int = 1, queue: str = "default") -> None:
        """Wait until the manager knows so many live sessions of the queue."""

        async def known() -> bool:
            views: list[dict[str, Any]] = (await self.get("/v1/queues"))["queues"]
            return any((view["name"], view["workers"]) == (queue, sessions) for view in views)

        await eventually(known, 30, what=f"{sessions} sessions joined {queue}")

    async def states(self) -> Counter[str]:
        """Count the tasks by state, in both tables of the database."""
        return Counter(
            row["state"] for row in await self.rows("SELECT state FROM tasks UNION ALL SELECT state FROM task_history")
        )

    async def rows(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.database)
        try:
            found: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return found
        finally:
            await connection.close()

    async def all_final(self, accepted: int, seconds: float = 60.0) -> Counter[str]:
        """Wait until every accepted task is final, and check that each is so once, and nowhere else."""
        deadline = time.monotonic() + seconds
        states = await self.states()
        while any(state in states for state in ("scheduled", "pending", "queued", "running")):
            assert time.monotonic() < deadline, f"not final after {seconds:g} s: {states}"
            await asyncio.sleep(0.1)
            states = await self.states()
        twice = await self.rows("SELECT id FROM task_history GROUP BY id HAVING count(*) > 1")
        assert not twice, f"final twice: {twice}"
        assert states.total() == accepted, f"accepted {accepted}, final {states}"
        return states
