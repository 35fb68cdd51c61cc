"""Fixtures of the stages' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.stages.floor import Floor, standing


@pytest_asyncio.fixture
async def floor(database: str) -> AsyncIterator[Floor]:
    async with standing(database) as at_work:
        yield at_work
