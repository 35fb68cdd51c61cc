"""What can be done on the pages: each button does what its words say, after a question where something is lost."""

from __future__ import annotations

from playwright.async_api import expect

from tacoq_publisher import TaskState
from tests.acceptance import handlers as h
from tests.dashboard.conftest import PATIENCE, Desk

expect.set_options(timeout=PATIENCE)


async def test_queue_is_paused_and_resumed(desk: Desk) -> None:
    await desk.open("/queues")
    row = desk.row("default")
    await desk.press("Pause", inside=row)
    await expect(row).to_contain_text("paused")
    handle = await desk.tacoq.publish(h.add.task(1, 2))
    assert await handle.state() is TaskState.PENDING
    await desk.press("Resume", inside=row)
    assert await handle.result(20) == 3
    await expect(row).not_to_contain_text("paused")


async def test_running_task_is_cancelled_after_a_question(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.nap.task(60.0))
    await desk.open(f"/tasks/{handle.id}")
    await expect(desk.page.locator("dl")).to_contain_text("Started")
    asked: list[str] = []
    desk.page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    await desk.press("Cancel")
    await desk.answer("Back")
    await expect(desk.page.locator("#told")).to_be_empty()
    assert asked == []
    await desk.press("Cancel")
    await desk.answer("Cancel")
    assert (await handle.wait(20)).state is TaskState.CANCELLED
    await expect(desk.page.locator("main")).to_contain_text("cancelled")


async def test_failed_task_is_retried_as_a_new_one(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.fails.task("no bread"), max_attempts=1)
    await handle.wait(20)
    await desk.open(f"/tasks/{handle.id}")
    await desk.press("Retry")
    await desk.page.get_by_role("status").get_by_role("link").click()
    await expect(desk.page.locator("dl")).to_contain_text(f"Retry of{handle.id}")


async def test_all_that_fit_are_retried_once_they_were_counted(desk: Desk) -> None:
    handles = await desk.tacoq.publish_many((h.fails.task("no bread") for _ in range(30)), max_attempts=1)
    for handle in handles:
        await handle.wait(20)
    await desk.open("/tasks?kind=fails&state=failed")
    await desk.press("Retry all of these…")
    await expect(desk.page.get_by_role("dialog")).to_contain_text("Retry 30 tasks: failed, kind fails?")
    await desk.answer("Retry them")
    await expect(desk.page.get_by_role("status")).to_have_text("30 tasks were published once more.")
    rows = await desk.stack.manager.database.read.fetch(
        "SELECT retry_of FROM tasks WHERE retry_of IS NOT NULL "
        "UNION ALL SELECT retry_of FROM task_history WHERE retry_of IS NOT NULL"
    )
    assert {row["retry_of"] for row in rows} == {handle.id for handle in handles}


async def test_all_that_wait_are_cancelled_and_nothing_is_said_of_none(desk: Desk) -> None:
    handles = await desk.tacoq.publish_many((h.add.task(1, number) for number in range(5)), delay="1h")
    await desk.open("/tasks?kind=add")
    await desk.press("Cancel all of these…")
    await desk.answer("Cancel them")
    assert [(await handle.wait(20)).state for handle in handles] == [TaskState.CANCELLED] * 5
    await desk.press("Cancel all of these…")
    await expect(desk.page.get_by_role("status")).to_have_text("There is nothing to cancel among these.")


async def test_worker_is_drained_and_takes_work_again(desk: Desk) -> None:
    await desk.open("/workers")
    session = str(desk.stack.sessions[0].id)
    row = desk.row(session)
    await desk.press("Drain", inside=row)
    await expect(row).to_contain_text("draining")
    await desk.press("Resume", inside=row)
    await expect(row).to_contain_text("live")


async def test_kind_that_is_held_back_is_resumed(desk: Desk) -> None:
    await desk.tacoq.publish(h.is_limited.task())
    await desk.open("/kinds")
    row = desk.row("is_limited")
    await expect(row).to_contain_text("in 59 min")
    await desk.press("Resume", inside=row)
    await expect(row.get_by_role("button")).to_have_count(0)
    await desk.page.reload()
    await expect(row).to_be_visible()
    await expect(row.get_by_role("button")).to_have_count(0)


async def test_schedule_is_run_now_and_paused(desk: Desk) -> None:
    await desk.open("/schedules")
    row = desk.row("reports.nightly").last
    await desk.press("Run now", inside=row)
    await desk.page.get_by_role("status").get_by_role("link").click()
    await expect(desk.page.locator("main")).to_contain_text("report of yesterday")
    await desk.open("/schedules")
    await desk.press("Pause", inside=row)
    await expect(row).to_contain_text("paused")
    await desk.press("Resume", inside=row)
    await expect(row).not_to_contain_text("paused")


async def test_what_is_refused_is_said_in_the_manager_s_words(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.add.task(1, 2), delay="1h")
    await desk.open(f"/tasks/{handle.id}")
    await expect(desk.page.get_by_role("button", name="Cancel")).to_be_visible()
    await desk.press("Cancel")
    await handle.cancel()
    await desk.answer("Cancel")
    await expect(desk.page.get_by_role("status")).to_contain_text("cancelled")


async def test_double_click_does_it_once(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.fails.task("no bread"), max_attempts=1)
    await handle.wait(20)
    await desk.open(f"/tasks/{handle.id}")
    await desk.page.get_by_role("button", name="Retry").dblclick()
    await expect(desk.page.get_by_role("status")).to_contain_text("Published once more")
    rows = await desk.stack.manager.database.read.fetch(
        "SELECT FROM tasks WHERE retry_of = $1 UNION ALL SELECT FROM task_history WHERE retry_of = $1", handle.id
    )
    assert len(rows) == 1


async def test_question_ends_with_its_page(desk: Desk) -> None:
    handle = await desk.tacoq.publish(h.add.task(1, 2), delay="1h")
    await desk.open("/tasks")
    await desk.open(f"/tasks/{handle.id}")
    await desk.press("Cancel")
    await expect(desk.page.get_by_role("dialog")).to_be_visible()
    await desk.page.go_back()
    await expect(desk.page.get_by_role("heading", level=1)).to_have_text("Tasks")
    await expect(desk.page.get_by_role("dialog")).to_have_count(0)
    assert await handle.state() is TaskState.SCHEDULED


async def test_button_keeps_the_focus_of_the_keyboard(desk: Desk) -> None:
    await desk.open("/queues")
    button = desk.row("default").get_by_role("button")
    await button.press("Enter")
    await expect(button).to_have_text("Resume")
    await expect(button).to_be_focused()
    await desk.page.keyboard.press("Enter")
    await expect(button).to_have_text("Pause")


async def test_what_cannot_be_cancelled_and_retried_together_is_left_out(desk: Desk) -> None:
    failed = await desk.tacoq.publish(h.fails.task("no bread"), max_attempts=1)
    waits = await desk.tacoq.publish(h.fails.task("no bread"), delay="1h")
    await failed.wait(20)
    await desk.open("/tasks?kind=fails&state=failed&state=scheduled")
    await desk.press("Cancel all of these…")
    await expect(desk.page.get_by_role("dialog")).to_contain_text("Cancel 1 task: scheduled, kind fails?")
    await desk.answer("Cancel them")
    await expect(desk.page.get_by_role("status")).to_contain_text("1 task was cancelled")
    assert await waits.state() is TaskState.CANCELLED
