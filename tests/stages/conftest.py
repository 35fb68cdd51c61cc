"""Fixtures of the stages' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tacoq_manager.settings import Settings
from tacoq_manager.store.engine import Database
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tests.stages.doors import Door
from tests.stages.floor import Floor, standing


@pytest.fixture
def hub() -> MemoryHub:
    """The in-process broker of `floor`."""
    return MemoryHub()


@pytest_asyncio.fixture
async def floor(database: str, hub: MemoryHub) -> AsyncIterator[Floor]:
    async with standing(Settings(database_url=database), lambda name: MemoryBroker(hub, name)) as at_work:
        yield at_work


@pytest_asyncio.fixture
async def rabbit_floor(database: str, broker_url: str, namespace: str) -> AsyncIterator[Floor]:
    settings = Settings(database_url=database, broker_url=broker_url, namespace=namespace)
    async with standing(settings, lambda name: RabbitBroker(broker_url, name)) as at_work:
        yield at_work


@pytest.fixture(params=["memory", "rabbitmq"])
def either_floor(request: pytest.FixtureRequest) -> Floor:
    found: Floor = request.getfixturevalue("floor" if request.param == "memory" else "rabbit_floor")
    return found


@pytest_asyncio.fixture
async def lock(database: str) -> AsyncIterator[Any]:
    """A connection in a transaction of its own, to hold rows."""
    connection = await asyncpg.connect(database)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def door(database: str) -> AsyncIterator[Door]:
    store = Database(database)
    yield Door(store)
    await store.close()


@pytest_asyncio.fixture
async def other_door(database: str) -> AsyncIterator[Door]:
    """That of another manager, on the same database."""
    store = Database(database)
    yield Door(store)
    await store.close()
