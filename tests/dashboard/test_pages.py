"""What the pages show: all that the manager has, as it is now, and nothing that a task carries as markup."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Response, expect

from tests.acceptance import handlers as h
from tests.dashboard.conftest import PATIENCE, Desk
from tests.support.eventually import eventually

expect.set_options(timeout=PATIENCE)


async def test_queues_show_what_waits_and_runs_and_follow_it(desk: Desk) -> None:
    await desk.open("/queues")
    row = desk.row("processes")
    await expect(row).to_contain_text("0 of 2")
    running = [await desk.tacoq.publish(h.nap_in_process.task(60.0)) for _ in range(2)]
    await desk.tacoq.publish(h.nap_in_process.task(60.0), delay="1h")
    await expect(row).to_contain_text("2 of 2")
    await expect(row.get_by_role("link")).to_have_text(["1", "2"])
    await row.get_by_role("link").last.click()
    await expect(desk.page.get_by_role("heading", level=1)).to_have_text("Tasks")
    await expect(desk.page.locator("tbody tr")).to_have_count(2)
    for handle in running:
        await handle.cancel()
    await expect(desk.page.locator("main")).to_contain_text("No task is like that.")


async def test_what_failed_last_is_on_the_first_page(desk: Desk) -> None:
    await desk.page.goto(desk.stack.url)
    await expect(desk.page.locator("main")).to_contain_text("Nothing has failed.")
    handle = await desk.tacoq.publish(h.fails.task("no bread"), max_attempts=1)
    await handle.wait(20)
    await expect(desk.row(str(handle.id))).to_contain_text("ValueError: no bread")


async def test_what_ended_lately_is_drawn_by_the_minute(desk: Desk) -> None:
    await desk.page.goto(desk.stack.url)
    await expect(desk.page.locator("main")).to_contain_text("Nothing has ended in the last hour.")
    handles = await desk.tacoq.publish_many(h.add.task(number, 1) for number in range(7))
    handles += await desk.tacoq.publish_many((h.fails.task("no bread") for _ in range(2)), max_attempts=1)
    for handle in handles:
        await handle.wait(20)
    sums = desk.page.locator(".sums")
    await expect(sums).to_contain_text("7 completed")
    await expect(sums).to_contain_text("2 failed")
    await expect(desk.page.locator(".chart rect.failed")).not_to_have_count(0)
    await desk.open("/kinds")
    await expect(desk.row("add").first.get_by_role("cell").nth(2)).to_have_text("7")


async def test_task_shows_why_it_is_there_and_what_happened(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.fails_until.task(2), priority=3, fairness_key="customer 17")
    await handle.result(20)
    await desk.open(f"/tasks/{handle.id}")
    main = desk.page.locator("main")
    await expect(main).to_contain_text("it completed")
    for text in ("customer 17", "Failed attempts2", "not yet, attempt 1"):
        await expect(main).to_contain_text(text)
    events = desk.page.locator("tbody tr td:nth-child(3)")
    await expect(events).to_have_text(
        ["accepted", *["queued", "started", "failed", "due"] * 2, "queued", "started", "completed"]
    )


async def test_task_that_waits_says_what_for(desk: Desk) -> None:
    handle = await desk.tacoq.publish("nobody.knows", {"a": 1}, queue="nowhere")
    await desk.page.goto(desk.stack.url)
    await desk.page.get_by_label("Task id").fill(str(handle.id))
    await desk.page.keyboard.press("Enter")
    await expect(desk.page.locator("main")).to_contain_text("no live worker serves queue 'nowhere'")


async def test_nothing_that_a_task_carries_becomes_markup(desk: Desk) -> None:
    evil = "<img src=x onerror=\"document.title='taken'\">"
    handle = await desk.tacoq.publish(h.fails.task(evil), max_attempts=1, fairness_key=evil)
    await handle.wait(20)
    await desk.open("/tasks?state=failed")
    await expect(desk.row(str(handle.id))).to_contain_text(f"ValueError: {evil}")
    await desk.open(f"/tasks/{handle.id}")
    await expect(desk.page.locator("dl")).to_contain_text(evil)
    assert await desk.page.locator("main img").count() == 0
    assert await desk.page.title() == f"Task {str(handle.id)[-12:]} · TacoQ"


async def test_numbers_are_shown_as_they_were_sent(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.add.task(98765432109876543210, 1))
    await handle.result(20)
    await desk.open(f"/tasks/{handle.id}")
    await expect(desk.page.locator("pre").last).to_contain_text('"x": 98765432109876543210')
    await expect(desk.page.locator("pre").first).to_have_text("98765432109876543211")


async def test_tasks_are_found_by_what_they_are_and_paged(desk: Desk) -> None:
    await desk.tacoq.publish_many(h.add.task(number, 1) for number in range(60))
    failed = await desk.tacoq.publish(h.fails.task("no bread"), max_attempts=1)
    await failed.wait(20)
    await desk.open("/tasks")
    rows = desk.page.locator("tbody tr")
    await expect(rows).to_have_count(50)
    await desk.page.get_by_role("link", name="Older").click()
    await expect(rows).to_have_count(11)
    await desk.page.get_by_label("failed").check()
    await expect(rows).to_have_count(1)
    await expect(desk.page.get_by_label("failed")).to_be_focused()
    await desk.page.get_by_label("Text in the error").fill("nothing like it")
    await desk.page.keyboard.press("Enter")
    await expect(desk.page.locator("main")).to_contain_text("No task is like that.")
    await desk.page.go_back()
    await expect(rows).to_have_count(1)


async def test_workers_kinds_and_schedules_are_listed(desk: Desk) -> None:
    session = str(desk.stack.sessions[0].id)
    await desk.open("/workers")
    await expect(desk.row(session)).to_contain_text("team=tacos")
    running = await desk.tacoq.publish(h.nap.task(60.0))
    await eventually(lambda: _is_running(desk, session), 20)
    await desk.page.get_by_role("link", name=session).click()
    await expect(desk.row(str(running.id))).to_contain_text("nap")
    await running.cancel()
    await desk.open("/kinds")
    await expect(desk.row("orders.bill").last).to_contain_text("item, count")
    await desk.open("/schedules")
    await expect(desk.row("reports.nightly").last).to_contain_text("0 3 29 2 * Europe/Lisbon")


def _is_running(desk: Desk, session: str) -> bool:
    return any(str(state.session) == session and state.running for state in desk.stack.manager.sessions.live())


async def test_unknown_tasks_and_pages_are_answered(desk: Desk) -> None:
    missing = "01a2179d-d9c5-70e8-b5c0-a061c85bf774"
    await desk.open(f"/tasks/{missing}")
    await expect(desk.page.locator("section").filter(has_text="accepted")).to_have_count(1)
    await desk.open("/tasks/17")
    await expect(desk.page.get_by_role("alert")).to_contain_text("17")
    for path in ("/nothing", "/tasks/%"):
        await desk.open(path)
        await expect(desk.page.get_by_role("heading", level=1)).to_have_text("Queues")
        await expect(desk.row("processes")).to_be_visible()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "the manager cannot be reached"),
        ({"status": 200, "body": "<p>Log in</p>"}, "what answered is not the manager"),
        ({"status": 502, "body": '{"error": "no upstream"}'}, "502"),
    ],
)
async def test_a_manager_that_is_away_is_said_and_looked_for(
    desk: Desk, answer: dict[str, Any] | None, words: str
) -> None:
    await desk.open("/queues")
    await expect(desk.row("processes")).to_be_visible()
    alert = desk.page.get_by_role("alert")
    await desk.page.route("**/v1/**", lambda route: route.abort() if answer is None else route.fulfill(**answer))
    await expect(alert).to_contain_text(words)
    await desk.page.unroute("**/v1/**")
    await expect(alert).to_be_hidden()
    await desk.tacoq.publish(h.nap_in_process.task(60.0))
    await expect(desk.row("processes")).to_contain_text("1 of 2")


async def test_an_answer_that_breaks_off_is_asked_for_again(desk: Desk) -> None:
    """As of a manager that is killed within it: the door is another server's, whose first answers break off."""
    broken = 0

    async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal broken
        asked = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        async with aiohttp.ClientSession(desk.stack.url) as http, http.get(asked) as answer:
            body = await answer.read()
        cut = asked.startswith("/v1/queues") and broken < 2
        broken += cut
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {answer.content_type}\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + (body[:5] if cut else body))
        writer.close()

    server = await asyncio.start_server(door, "127.0.0.1", 0)
    async with server:
        await desk.page.goto(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/dashboard/")
        await expect(desk.row("processes")).to_be_visible()
        assert broken == 2


async def test_what_is_looked_at_is_not_taken_away_by_what_comes(desk: Desk) -> None:
    """Nothing that is shown has changed: the line is the same element still; the page keeps its place."""
    await desk.page.set_viewport_size({"width": 500, "height": 700})
    await desk.open("/workers")
    row = desk.row(str(desk.stack.sessions[0].id))
    await row.get_by_role("link").focus()
    wide = desk.page.locator(".wide")
    await wide.evaluate("element => { element.scrollLeft = 200 }")
    looks = 0

    def looked(response: Response) -> None:
        nonlocal looks
        looks += response.url.endswith("/v1/workers?ended=false")

    desk.page.on("response", looked)
    await desk.tacoq.publish(h.nap.task(60.0))  # held: a number changes
    await expect(row).to_contain_text("1 of 20")
    await eventually(lambda: looks >= 2, 20)
    await expect(row.get_by_role("link")).to_be_focused()
    assert await wide.evaluate("element => element.scrollLeft") == 200


async def test_run_that_goes_on_is_shown_as_long_as_it_is(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.nap.task(60.0))
    await desk.open(f"/tasks/{handle.id}")
    ran = desk.page.locator("time.since")
    first = await ran.text_content()
    await expect(ran).not_to_have_text(first or "")
    await handle.cancel()
    await handle.wait(20)


async def test_what_has_ended_is_not_asked_for_again(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.add.task(1, 2))
    await handle.result(20)
    asked: list[str] = []
    desk.page.on("request", lambda request: asked.append(request.url) if "/v1/tasks/" in request.url else None)
    await desk.open(f"/tasks/{handle.id}")
    await expect(desk.page.locator("main")).to_contain_text("completed")
    await expect(desk.page.locator("pre").last).to_be_visible()
    await expect(desk.page.locator("tbody tr")).to_have_count(4)
    await desk.page.clock.install()
    await desk.page.clock.run_for(60_000)
    assert len(asked) == 4


async def test_payload_that_is_deep_or_long_does_not_hold_up_the_page(desk: Desk) -> None:
    deep = await desk.tacoq.publish("nobody.knows", json_of(200), queue="nowhere")
    long = await desk.tacoq.publish("nobody.knows", {"text": "x" * 500_000}, queue="nowhere")
    await desk.open(f"/tasks/{deep.id}")
    await expect(desk.page.locator("pre")).to_contain_text("[" * 200)
    await desk.open(f"/tasks/{long.id}")
    await expect(desk.page.locator("main")).to_contain_text("This is its beginning")


def json_of(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
