"""The contract suite runs on both adapters: `world` is an in-process server, or RabbitMQ behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.worlds import MemoryWorld, RabbitWorld, World


@pytest.fixture(params=["memory", "rabbitmq"])
def where(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    """Broker URL and namespace, or None in process: that must run where no server is installed."""
    if request.param == "memory":
        return None
    return request.getfixturevalue("broker_url"), request.getfixturevalue("namespace")


@pytest_asyncio.fixture
async def world(where: tuple[str, str] | None) -> AsyncIterator[World]:
    made: World = MemoryWorld() if where is None else RabbitWorld(*where)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def rabbit(broker_url: str, namespace: str) -> AsyncIterator[RabbitWorld]:
    """For what only RabbitMQ has."""
    made = RabbitWorld(broker_url, namespace)
    yield made
    await made.close()
