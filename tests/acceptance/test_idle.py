"""What an idle system costs Postgres: the lead's renewal, and little else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.queries import CountingProxy

WINDOW = 10  # seconds: two recounts, the rarest thing that is done for nothing


@pytest_asyncio.fixture
async def counting(database: str) -> AsyncIterator[CountingProxy]:
    """Before the Postgres of the managers."""
    parts = urlsplit(database)
    proxy = CountingProxy(parts.hostname or "", parts.port or 5432)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.mark.timeout(200)
async def test_idle_managers_hardly_ask_postgres_anything(cluster: Cluster, counting: CountingProxy) -> None:
    """As soon as what they do at their start is done. One that does not lead only looks whether it may."""
    parts = urlsplit(cluster.database)
    env = {"TACOQ_DATABASE_URL": parts._replace(netloc=f"{parts.username}@127.0.0.1:{counting.port}").geturl()}

    async def less_a_second_than(most: int) -> bool:
        before = counting.queries
        await asyncio.sleep(WINDOW)
        return 0 < counting.queries - before < most * WINDOW

    cluster.spawn("manager", "--port", str(cluster.port), env=env)
    await eventually(cluster.ready, 30, what="the manager is ready")
    cluster.worker("worker", "--processes", "10")
    await cluster.joined(10)
    await eventually(lambda: less_a_second_than(2), 60, what="one manager is idle")
    other = cluster.spawn("manager", "--port", "0", env=env)
    await eventually(lambda: "manager started" in other.log(), 30, what="another is there")
    await eventually(lambda: less_a_second_than(3), 60, what="two managers are idle")
