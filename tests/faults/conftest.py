"""Fixtures of the fault tests: what ran, what was asked, and fields on servers that may be broken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from scripts.private_servers import PrivatePostgres, PrivateRabbit
from tests.faults.effects import Effects
from tests.faults.field import Field, Link
from tests.faults.form import FORM
from tests.faults.ledger import Ledger

MakeField = Callable[..., Awaitable[Field]]
_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure: the field's logs are then worth reading."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of all random draws. A failure shows it; FAULTS_SEED repeats it."""
    request.node.add_report_section("call", "seed", f"FAULTS_SEED={FORM.seed}")
    return FORM.seed


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest_asyncio.fixture
async def effects(database: str) -> Effects:
    """On the shared Postgres, which no test breaks."""
    effects = Effects(database)
    await effects.create()
    return effects


@pytest_asyncio.fixture
async def make_field(
    request: pytest.FixtureRequest,
    private_rabbit: PrivateRabbit,
    private_postgres: PrivatePostgres,
    private_database: str,
    namespace: str,
    effects: Effects,
) -> AsyncIterator[MakeField]:
    """Make the test's field, with proxies on the links named; nothing runs in it yet."""
    made: list[Field] = []
    async with AsyncExitStack() as stack:

        async def make(*links: Link) -> Field:
            field = Field(
                private_rabbit,
                private_postgres,
                database=private_database,
                namespace=namespace,
                effects=effects,
                links=frozenset(links),
            )
            made.append(await stack.enter_async_context(field))
            return field

        yield make
        if _FAILED in request.node.stash:
            for field in made:
                field.print_logs()


@pytest_asyncio.fixture
async def field(make_field: MakeField) -> Field:
    """A field without proxies."""
    return await make_field()
