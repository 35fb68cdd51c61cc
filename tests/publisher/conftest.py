"""A scripted manager and a publisher that gives up soon enough for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tacoq_publisher import Publisher
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
