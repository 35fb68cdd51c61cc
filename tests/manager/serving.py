"""A whole manager behind HTTP, over an in-process broker: what the API's tests talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp

from tacoq_manager.api.app import create_app
from tacoq_manager.manager import Manager
from tacoq_manager.serve import HttpServer
from tacoq_manager.settings import Settings
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.http import Problem
from tacoq_protocol.ids import new_task_id


@dataclass
class Served:
    """A running manager, its broker's hub, and a client with its address."""

    manager: Manager
    hub: MemoryHub
    server: HttpServer
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Return status and JSON; a status above 399 has to come with a problem."""
        async with self.http.request(method, path, **options) as response:
            content = await response.json(content_type=None)
            if response.status >= 400:
                assert response.content_type == "application/problem+json"
                problem = Problem.model_validate(content)
                assert problem.status == response.status
            return response.status, content

    async def publish(self, **fields: Any) -> UUID:
        """Publish a task of kind `add`, unless `fields` say otherwise; return its id."""
        task_id = new_task_id()
        task = {"id": str(task_id), "kind": "add", "payload": {"x": 1}} | fields
        status, answer = await self.ask("POST", "/v1/tasks", json=task)
        assert status == 201, answer
        return task_id


@asynccontextmanager
async def serving(database_url: str, **settings: Any) -> AsyncIterator[Served]:
    hub = MemoryHub()
    manager = Manager(Settings(database_url=database_url, **settings), MemoryBroker(hub, "manager"))
    await manager.start()
    server = HttpServer(create_app(manager), "127.0.0.1", 0)
    await server.start()
    async with aiohttp.ClientSession(server.url) as http:
        yield Served(manager, hub, server, http)
    await server.stop()
    await manager.stop()
