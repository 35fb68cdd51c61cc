"""A whole TacoQ and a real browser that looks at its dashboard. What goes wrong on a page fails the test."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import ConsoleMessage, Error, Locator, Page, async_playwright

from scripts.browser import needed_browser
from tacoq_embedded.stack import Stack
from tacoq_manager.settings import Settings
from tacoq_publisher import Publisher
from tests.acceptance.handlers import processes, worker
from tests.conftest import NAMED

KEY = "a-key-of-tests"
PATIENCE = 15_000  # ms, for whatever a page is to show
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Desk:
    """Somebody at a browser, beside an application that publishes."""

    stack: Stack
    tacoq: Publisher
    page: Page

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self.stack.url}/dashboard/#{path}")

    def row(self, text: str) -> Locator:
        """The line of a table that has this text in it."""
        return self.page.get_by_role("row").filter(has_text=text)

    async def press(self, name: str, *, inside: Locator | None = None) -> None:
        """The button of this name, or of this name for something."""
        await (inside or self.page).get_by_role("button", name=re.compile(rf"^{re.escape(name)}(?!\w)")).click()

    async def answer(self, name: str) -> None:
        """Press a button of the question that is asked."""
        await self.press(name, inside=self.page.get_by_role("dialog"))


@pytest.fixture
def api_key() -> str | None:
    """A test that wants one says so by `parametrize`."""
    return None


@pytest_asyncio.fixture
async def stack(database: str, api_key: str | None) -> AsyncIterator[Stack]:
    given: dict[str, Any] = {} if api_key is None else {"api_key": api_key}
    async with Stack([worker, processes], Settings(database_url=database, port=0, **given), grace=1.0) as running:
        yield running


@pytest_asyncio.fixture
async def page() -> AsyncIterator[Page]:
    wrong: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        answered = message.text.startswith("Failed to load resource") and "/v1/" in message.location["url"]
        if message.type == "error" and not answered:  # the API may refuse, or be away
            wrong.append(message.text)

    def thrown(error: Error) -> None:
        wrong.append(str(error))

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=needed_browser(NAMED), args=OPTIONS)
        opened = await browser.new_page()
        opened.set_default_timeout(PATIENCE)
        opened.on("console", heard)
        opened.on("pageerror", thrown)
        yield opened
        await browser.close()
    assert not wrong


@pytest_asyncio.fixture
async def desk(stack: Stack, page: Page, api_key: str | None) -> AsyncIterator[Desk]:
    async with Publisher(stack.url, api_key=api_key) as tacoq:
        yield Desk(stack, tacoq, page)
