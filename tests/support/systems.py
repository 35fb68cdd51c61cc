"""Running systems to test through their doors: separate processes on real servers, and the embedded mode.

A plugin of `tests/conftest.py`: its fixtures are everybody's.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from scripts.cleanup import delete_topology
from tacoq_embedded.postgres import EmbeddedPostgres
from tacoq_embedded.stack import Stack
from tacoq_manager.settings import Settings
from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.brokers.memory import MemoryBroker
from tacoq_protocol.topology import Topology
from tests.acceptance.handlers import processes, worker
from tests.support.cluster import Cluster
from tests.support.databases import Databases

QUEUES = ["default", "processes"]
REGION = "eu"  # a label


@dataclass(frozen=True)
class System:
    """A manager with both workers at `url`. `make_broker` makes a client of its broker for the test itself."""

    url: str
    database: str
    topology: Topology
    make_broker: BrokerFactory

    async def metric(self, sample: str) -> float:
        """Return the value of one sample of /metrics, given with its labels; 0 when there is none yet."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/metrics") as answer:
            found = re.search(rf"^{re.escape(sample)} (\S+)$", await answer.text(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0


@pytest_asyncio.fixture
async def cluster(database: str, broker_url: str, namespace: str) -> AsyncIterator[Cluster]:
    """Nothing runs yet: the test starts what it needs."""
    with Cluster(database, broker_url, namespace) as running:
        yield running
    await delete_topology(broker_url, namespace, queues=QUEUES)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_cluster(databases: Databases, broker_url: str, namespace_prefix: str) -> AsyncIterator[Cluster]:
    """A manager and two workers that tests share which break nothing."""
    namespace = f"{namespace_prefix}shared"
    with Cluster(databases.url_of(await databases.create()), broker_url, namespace) as running:
        await running.start_manager()
        running.worker("worker", "--label", f"region={REGION}")
        running.worker("processes")
        await running.joined(1, "default")
        await running.joined(1, "processes")
        yield running
    await delete_topology(broker_url, namespace, queues=QUEUES)


@pytest.fixture(scope="session")
def embedded_postgres() -> Iterator[str]:
    """The URL of a Postgres as `tacoq dev` starts it."""
    parent = Path(tempfile.mkdtemp(prefix="tacoq-test-"))
    parent.chmod(0o755)  # unlike pytest's tmp_path: its server may run as another user
    postgres = EmbeddedPostgres(parent / "t")
    postgres.start()
    yield postgres.url
    postgres.stop()
    shutil.rmtree(parent)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded_databases(embedded_postgres: str) -> Databases:
    databases = Databases(embedded_postgres)
    await databases.make_template()
    return databases


@pytest_asyncio.fixture
async def embedded_database(embedded_databases: Databases) -> AsyncIterator[str]:
    """The URL of a migrated, empty database on an embedded Postgres."""
    name = await embedded_databases.create()
    yield embedded_databases.url_of(name)
    await embedded_databases.drop(name)


@pytest.fixture(params=["database", "embedded_database"])
def either_database(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database: on an ordinary Postgres, and on an embedded one."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture(params=["rabbitmq", "embedded"])
def where(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def _given(where: str, request: pytest.FixtureRequest) -> Cluster | str:
    """What `system` is made from: only that is started."""
    given: Cluster | str = request.getfixturevalue("shared_cluster" if where == "rabbitmq" else "embedded_database")
    return given


@pytest_asyncio.fixture
async def system(_given: Cluster | str) -> AsyncIterator[System]:
    """A manager with both workers: on RabbitMQ as processes, or embedded in this one."""
    if isinstance(_given, Cluster):
        yield System(_given.url, _given.database, Topology(_given.namespace), _given.make_broker)
        return
    settings = Settings(database_url=_given, port=0)
    async with Stack([worker, processes], settings, grace=1.0, labels={"region": REGION}) as stack:
        yield System(stack.url, _given, stack.manager.topology, lambda name: MemoryBroker(stack.hub, name))


@pytest.fixture
def url(system: System) -> str:
    return system.url
