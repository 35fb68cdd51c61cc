"""Running systems for acceptance tests: separate processes on real servers, and the embedded stack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from scripts.cleanup import delete_topology
from tacoq_embedded.stack import Stack
from tacoq_manager.settings import Settings
from tests.acceptance.handlers import processes, worker
from tests.support.cluster import Cluster
from tests.support.databases import Databases


@pytest_asyncio.fixture
async def cluster(database: str, broker_url: str, namespace: str) -> AsyncIterator[Cluster]:
    """Nothing runs yet: the test starts what it needs."""
    with Cluster(database, broker_url, namespace) as running:
        yield running
    await delete_topology(broker_url, namespace, queues=["default", "processes"])


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def shared_cluster(databases: Databases, broker_url: str, namespace_prefix: str) -> AsyncIterator[Cluster]:
    """A manager and two workers that tests share which break nothing."""
    namespace = f"{namespace_prefix}shared"
    with Cluster(databases.url_of(await databases.create()), broker_url, namespace) as running:
        await running.start_manager()
        running.worker("worker")
        running.worker("processes")
        await running.joined(1, "default")
        await running.joined(1, "processes")
        yield running
    await delete_topology(broker_url, namespace, queues=["default", "processes"])


@pytest.fixture(params=["rabbitmq", "embedded"])
def where(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest_asyncio.fixture
async def url(where: str, shared_cluster: Cluster, database: str) -> AsyncIterator[str]:
    """Where a manager with both workers answers: on RabbitMQ as processes, or embedded in this one."""
    if where == "rabbitmq":
        yield shared_cluster.url
        return
    settings = Settings(database_url=database, port=0)
    async with Stack([worker, processes], settings, grace=1.0) as stack:
        yield stack.url


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
