"""Fixtures for the manager's own parts: connections to a fresh database, rows without the stages that make them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from scripts.cleanup import delete_topology
from tacoq_manager.settings import LookSettings, Settings
from tacoq_manager.store.engine import Database
from tacoq_protocol.brokers.memory import MemoryHub
from tests.manager.looking import add_worker, declare_queue, manager_at
from tests.manager.serving import Served, serving
from tests.manager.sessions import Listener, Worker
from tests.support import eventually


@pytest_asyncio.fixture
async def store(database: str) -> AsyncIterator[Database]:
    """Connections to a migrated, empty database."""
    connections = Database(database)
    yield connections
    await connections.close()


@pytest_asyncio.fixture
async def served(database: str) -> AsyncIterator[Served]:
    """A whole manager behind HTTP, over an in-process broker."""
    async with serving(database) as running:
        yield running


@pytest_asyncio.fixture
async def hub() -> MemoryHub:
    return MemoryHub()


@pytest_asyncio.fixture
async def manager(hub: MemoryHub, store: Database) -> AsyncIterator[Listener]:
    listener = Listener(hub, store)
    await listener.start()
    await eventually(lambda: listener.sessions.steady_since is not None)
    yield listener
    await listener.stop()


@pytest_asyncio.fixture
async def worker(hub: MemoryHub, manager: Listener) -> AsyncIterator[Worker]:
    worker = Worker(hub)
    await worker.start()
    yield worker
    await worker.broker.stop()


@pytest_asyncio.fixture
async def settings(database: str, broker_url: str, namespace: str) -> AsyncIterator[LookSettings]:
    """Those of a system in which a manager runs, and a worker of the queue `mail`, which knows the kind `send`."""
    plain = Settings(database_url=database, broker_url=broker_url, namespace=namespace)
    async with manager_at(plain) as url:
        await add_worker(database)
        await declare_queue(plain, "mail")
        yield LookSettings(database_url=database, broker_url=broker_url, namespace=namespace, manager_url=url)
    await delete_topology(broker_url, namespace, queues=["mail"])
