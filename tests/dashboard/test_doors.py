"""Who may see what: the files are everybody's, what the API tells wants the key, and no page of others is let in."""

from __future__ import annotations

from urllib.parse import urljoin

import aiohttp
import pytest
from playwright.async_api import expect
from yarl import URL

from tacoq_embedded.stack import Stack
from tests.acceptance import handlers as h
from tests.dashboard.conftest import KEY, PATIENCE, Desk

expect.set_options(timeout=PATIENCE)


@pytest.mark.parametrize("api_key", [KEY])
async def test_key_is_asked_for_once_and_kept(desk: Desk) -> None:
    await desk.tacoq.publish(h.add.task(1, 2))
    await desk.open("/tasks")
    dialog = desk.page.get_by_role("dialog")
    await desk.page.get_by_label("API key").fill("wrong")
    await desk.answer("Use it")
    await expect(dialog).to_contain_text("not this manager’s key")
    assert await desk.page.locator("tbody tr").count() == 0
    await desk.page.get_by_label("API key").fill(KEY)
    await desk.answer("Use it")
    await expect(desk.row("add")).to_be_visible()
    await desk.page.reload()
    await expect(desk.row("add")).to_be_visible()
    await expect(dialog).to_be_hidden()


@pytest.mark.parametrize("api_key", [KEY])
async def test_who_gives_no_key_is_not_asked_again(desk: Desk) -> None:
    sent: list[str | None] = []
    desk.page.on("request", lambda request: sent.append(request.headers.get("authorization")))
    await desk.open("/queues")
    await desk.page.get_by_label("API key").fill("half of i")
    await desk.page.keyboard.press("Escape")
    await expect(desk.page.get_by_role("alert")).to_contain_text("reload the page")
    await desk.open("/workers")
    await expect(desk.page.get_by_role("alert")).to_contain_text("reload the page")
    await expect(desk.page.get_by_role("dialog")).to_have_count(0)
    assert {*sent} == {None}


async def test_it_works_below_a_path_of_a_proxy(stack: Stack) -> None:
    async with aiohttp.ClientSession() as http:
        for path in ("/", "/dashboard"):
            async with http.get(f"{stack.url}{path}", allow_redirects=False) as answer:
                assert urljoin(f"https://ops.example/queue{path}", answer.headers["Location"]) == (
                    "https://ops.example/queue/dashboard/"
                )


@pytest.mark.parametrize("api_key", [KEY])
async def test_without_the_key_there_are_files_and_nothing_else(stack: Stack) -> None:
    async with aiohttp.ClientSession() as http:
        for path, status in {
            "/": 200,
            "/dashboard": 200,
            "/dashboard/": 200,
            "/dashboard/views/tasks.js": 200,
            "/dashboard/nothing.js": 404,
            "/dashboard/%2e%2e/api/dashboard.py": 404,
            "/dashboardx": 401,
            "/v1/queues": 401,
            "/metrics": 401,
            "/docs": 401,
        }.items():
            async with http.get(URL(stack.url + path, encoded=True)) as answer:
                assert answer.status == status, path


async def test_what_is_served_may_run_nothing_of_others_and_stand_in_no_page_of_theirs(stack: Stack) -> None:
    async with aiohttp.ClientSession(stack.url) as http:
        for path, kind in {"": "text/html", "app.js": "text/javascript", "icon.svg": "image/svg+xml"}.items():
            async with http.get(f"/dashboard/{path}") as answer:
                assert answer.content_type == kind
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "frame-ancestors 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["Cache-Control"] == "no-cache"
                tag = {"If-None-Match": answer.headers["ETag"]}
            async with http.get(f"/dashboard/{path}", headers=tag) as again:
                assert again.status == 304


async def test_dashboard_is_no_part_of_the_api_s_description(stack: Stack) -> None:
    async with aiohttp.ClientSession(stack.url) as http, http.get("/openapi.json") as answer:
        assert not [path for path in (await answer.json())["paths"] if "dashboard" in path or path == "/"]
