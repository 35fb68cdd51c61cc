"""Clusters for acceptance tests: separate processes on the shared servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from scripts.cleanup import delete_topology
from tests.support.cluster import Cluster


@pytest_asyncio.fixture
async def cluster(database: str, broker_url: str, namespace: str) -> AsyncIterator[Cluster]:
    """Nothing runs yet: the test starts what it needs."""
    with Cluster(database, broker_url, namespace) as running:
        yield running
    await delete_topology(broker_url, namespace, queues=["default", "processes"])
