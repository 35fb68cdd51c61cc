"""What the pages show: all that the manager has, as it is now, and nothing that a task carries as markup."""

from __future__ import annotations

import re

from playwright.async_api import expect

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
    assert await desk.page.title() == "Task · TacoQ"


async def test_numbers_are_shown_as_they_were_sent(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.add.task(98765432109876543210, 1))
    await handle.result(20)
    await desk.open(f"/tasks/{handle.id}")
    await expect(desk.page.locator("pre").first).to_contain_text('"x": 98765432109876543210')
    await expect(desk.page.locator("pre").last).to_have_text("98765432109876543211")


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
    await expect(desk.page.locator("main")).to_contain_text(
        re.compile(f"no task.*{missing}|{missing}.*no", re.IGNORECASE)
    )
    await desk.open("/tasks/17")
    await expect(desk.page.get_by_role("alert")).to_contain_text("17")
    await desk.open("/nothing")
    await expect(desk.page.get_by_role("heading", level=1)).to_have_text("Queues")


async def test_a_manager_that_is_away_is_said_and_looked_for(desk: Desk) -> None:
    await desk.open("/queues")
    await expect(desk.row("processes")).to_be_visible()
    alert = desk.page.get_by_role("alert")
    await desk.page.route("**/v1/**", lambda route: route.abort())
    await expect(alert).to_have_text("the manager cannot be reached")
    await desk.page.unroute("**/v1/**")
    await expect(alert).to_be_hidden()
