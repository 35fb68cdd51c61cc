"""Fixtures of the whole suite: real servers, a fresh database and a fresh broker namespace for each test.

A missing server is an error that says what to install, never a skip.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

import hypothesis
import pytest
import pytest_asyncio

from scripts.cleanup import delete_queues, delete_topology, queues_beginning_with
from scripts.services import PrivatePostgres, PrivateRabbit, PrivateRedis, Services
from scripts.services import services as start_services
from tests.support.databases import Databases

Server = TypeVar("Server", PrivateRabbit, PrivatePostgres, PrivateRedis)

pytest_plugins = ["tests.support.systems", "tests.support.tracing"]

# Settings read TACOQ_*: what a developer has set must not reach the tests, but for the servers to use.
NAMED = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TACOQ_")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fault tests first: they mostly wait, and one of their files takes longer than a hundred others."""
    items.sort(key=lambda item: "faults" not in item.path.parts)


hypothesis.settings.register_profile("tacoq", deadline=None)
hypothesis.settings.load_profile("tacoq")


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Addresses of a Postgres, a RabbitMQ and a Redis: those that are up, else private ones that end with the run."""
    with start_services(NAMED, fsync=False, redis=True) as up:
        yield up


@pytest.fixture(scope="session")
def database_url(services: Services) -> str:
    """The Postgres server, in the name of its maintenance database. Tests use `database`."""
    return services.database_url


@pytest.fixture(scope="session")
def broker_url(services: Services) -> str:
    """The RabbitMQ that all tests share, each in its own `namespace`."""
    return services.broker_url


@pytest.fixture(scope="session")
def redis_url(services: Services) -> str:
    """The Redis that all tests share; their keys begin with their `namespace`, and expire."""
    assert services.redis_url is not None
    return services.redis_url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def databases(database_url: str) -> AsyncIterator[Databases]:
    databases = Databases(database_url)
    await databases.make_template()
    yield databases
    await databases.drop_all()


@pytest_asyncio.fixture
async def database(databases: Databases) -> AsyncIterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    name = await databases.create()
    yield databases.url_of(name)
    await databases.drop(name)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def namespace_prefix(broker_url: str) -> AsyncIterator[str]:
    prefix = f"test-{os.urandom(4).hex()}-"
    yield prefix
    await delete_queues(broker_url, queues_beginning_with(prefix))


@pytest_asyncio.fixture
async def namespace(broker_url: str, namespace_prefix: str) -> AsyncIterator[str]:
    """A namespace of this test's own on the shared broker; its queues and exchanges are deleted afterwards."""
    name = namespace_prefix + os.urandom(4).hex()
    yield name
    await delete_topology(broker_url, name)


def _started(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def _private_rabbit() -> Iterator[PrivateRabbit]:
    yield from _started(PrivateRabbit())


@pytest.fixture
def private_rabbit(_private_rabbit: PrivateRabbit) -> Iterator[PrivateRabbit]:
    """A RabbitMQ to stop, kill, freeze or alarm. Running, without alarms; what others left there has other names."""
    yield _private_rabbit
    if _private_rabbit.running:
        _private_rabbit.thaw()
    _private_rabbit.start()
    _private_rabbit.ctl("set_vm_memory_high_watermark", "0.6")


@pytest.fixture(scope="session")
def _private_postgres() -> Iterator[PrivatePostgres]:
    yield from _started(PrivatePostgres(fsync=False))


@pytest.fixture
def private_postgres(_private_postgres: PrivatePostgres) -> Iterator[PrivatePostgres]:
    """A Postgres to stop, kill or freeze. Running when the test begins."""
    yield _private_postgres
    if _private_postgres.running:
        _private_postgres.thaw()
    _private_postgres.start()


@pytest.fixture(scope="session")
def _private_redis() -> Iterator[PrivateRedis]:
    yield from _started(PrivateRedis())


@pytest.fixture
def private_redis(_private_redis: PrivateRedis) -> Iterator[PrivateRedis]:
    """A Redis to empty, stop, kill or freeze. Running when the test begins."""
    yield _private_redis
    if _private_redis.running:
        _private_redis.thaw()
    _private_redis.start()


@pytest_asyncio.fixture
async def private_database(private_postgres: PrivatePostgres) -> AsyncIterator[str]:
    """The URL of a migrated, empty database on `private_postgres`."""
    databases = Databases(private_postgres.database_url)
    await databases.make_template()
    yield databases.url_of(await databases.create())
    private_postgres.thaw() if private_postgres.running else private_postgres.start()
    await databases.drop_all()
