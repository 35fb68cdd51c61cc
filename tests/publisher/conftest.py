"""A scripted manager, a publisher that gives up soon enough for a test, and applications with an outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tacoq_publisher import Publisher
from tests.publisher.outboxes import Application, OnPostgres, OnSQLite, on_postgres, on_sqlite
from tests.publisher.scripted_manager import ScriptedManager, running_manager


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TACOQ_MANAGER_URL", "TACOQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def manager() -> AsyncIterator[ScriptedManager]:
    async with running_manager() as manager:
        yield manager


@pytest.fixture
async def publisher(manager: ScriptedManager) -> AsyncIterator[Publisher]:
    async with Publisher(manager.url, retry_for=20) as publisher:
        yield publisher


@pytest_asyncio.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[OnSQLite]:
    async with on_sqlite(tmp_path) as application:
        yield application


@pytest_asyncio.fixture
async def postgres(database: str) -> AsyncIterator[OnPostgres]:
    async with on_postgres(database) as application:
        yield application


@pytest.fixture(params=["sqlite", "postgres"])
def application(request: pytest.FixtureRequest) -> Application:
    found: Application = request.getfixturevalue(request.param)
    return found
