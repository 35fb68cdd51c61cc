"""Timelines: the life of a task through all stages, told whole."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from tacoq_manager.store import timeline
from tacoq_manager.transitions import lose
from tacoq_protocol.http import ErrorInfo, TimelineEvent
from tacoq_protocol.messages import Completed, Failed, Fence, KindSpec, Returned, ReturnReason, Snoozed, Started
from tests.stages.floor import Floor


async def events(floor: Floor, task_id: UUID) -> list[TimelineEvent]:
    return (await timeline.read(floor.manager.database, task_id)).events


async def told(floor: Floor, task_id: UUID) -> list[tuple[str, int | None, str | None]]:
    return [(event.event, event.release, event.detail) for event in await events(floor, task_id)]


async def due(floor: Floor) -> None:
    """Let all that waits for its time be due now, and release it."""
    await floor.connection.execute("UPDATE tasks SET state = 'pending', run_at = now() WHERE state = 'scheduled'")
    await floor.manager.recount.step()
    assert await floor.dispatch() == 1


async def test_whole_life_is_told_in_order(floor: Floor) -> None:
    floor.join("k")
    (task_id,) = await floor.accept(delay=0.5, max_attempts=9)
    await due(floor)
    await floor.report(Returned(task_id, 1, ReturnReason.SHUTDOWN))
    await due(floor)
    now = datetime.now(UTC)
    error = ErrorInfo("ValueError", "no such mailbox")
    await floor.report(Failed(task_id, 3, now, 0.1, 0, error, retryable=True, delay=60.0, kind="k"))
    await due(floor)
    await floor.report(Snoozed(task_id, 5, now, 0.1, 60.0))
    await due(floor)
    await floor.report(Started(task_id, 7, now))
    await floor.manager.settler.apply(
        [lose(Fence(task_id, 7), started=True, session=floor.session, spec=KindSpec("k"), detail="was killed")]
    )
    await due(floor)
    await floor.manager.settler.apply(
        [lose(Fence(task_id, 8), started=False, session=None, spec=KindSpec("k"), detail="no worker holds it any more")]
    )
    await due(floor)
    await floor.report(Started(task_id, 9, now))
    await floor.manager.canceller.cancel(task_id)
    await floor.report(Completed(task_id, 9, now, 0.1, b"1"))
    assert await told(floor, task_id) == [
        ("accepted", None, None),
        ("due", None, None),
        ("queued", 1, None),
        ("returned", 1, "its worker was stopped"),
        ("queued", 3, None),
        ("started", 3, None),
        ("failed", 3, "ValueError: no such mailbox"),
        ("due", None, None),
        ("queued", 5, None),
        ("started", 5, None),
        ("snoozed", 5, None),
        ("due", None, None),
        ("queued", 7, None),
        ("started", 7, None),
        ("lost", 7, "WorkerLost: was killed"),
        ("queued", 8, None),
        ("returned", 8, "no worker holds it any more"),
        ("queued", 9, None),
        ("started", 9, None),
        ("cancel_requested", None, None),
        ("completed", 9, None),
    ]
    by_session = {(event.event, event.release) for event in await events(floor, task_id) if event.session is not None}
    assert by_session >= {("returned", 1), ("failed", 3), ("snoozed", 5), ("lost", 7), ("started", 9), ("completed", 9)}


async def test_wait_for_the_next_attempt_ends_in_the_future(floor: Floor) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    now = datetime.now(UTC)
    await floor.report(Failed(task_id, 1, now, 0.1, 0, ErrorInfo("E", "m"), retryable=True, delay=3600.0, kind="k"))
    *_, failed, again = await events(floor, task_id)
    assert (failed.event, again.event) == ("failed", "due")
    assert (again.at - failed.at).total_seconds() == 3600.0


async def test_first_time_success_leaves_nothing_beside_its_row(floor: Floor) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    await floor.report(Completed(task_id, 1, datetime.now(UTC), 0.1, b"1"))
    assert [name for name, *_ in await told(floor, task_id)] == ["accepted", "queued", "started", "completed"]
    assert not await floor.connection.fetch("SELECT FROM attempts")
