"""Timelines: what is told of a task's life, by the rows that the stages leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tacoq_manager.store import timeline
from tacoq_manager.store.engine import Database
from tacoq_protocol.errors import TaskNotFound
from tacoq_protocol.states import TaskState
from tests.manager.rows import finish, insert_final, insert_live, new_ids

NOW = datetime.now(UTC)


async def test_the_timeline_of_a_waiting_task_begins_with_its_accept(store: Database) -> None:
    (waiting,) = new_ids(1)
    await insert_live(store, [waiting], run_at=NOW)
    assert [event.event for event in (await timeline.read(store, waiting)).events] == ["accepted"]
    await finish(store, [waiting])
    assert [event.event for event in (await timeline.read(store, waiting)).events] == ["accepted", "completed"]


async def test_the_timeline_tells_each_run_once_in_the_order_of_releases(store: Database) -> None:
    (task,) = new_ids(1)
    await insert_final(
        store, [task], finished_at=NOW, state=TaskState.FAILED, result=None, error='{"type":"E","message":"2"}'
    )
    await store.settle.fetch("UPDATE task_history SET release = 3, started_at = finished_at WHERE id = $1", task)
    for release, message, skew in ((1, "1", 3600), (3, "2", 0)):  # a worker whose clock is an hour ahead
        await store.settle.fetch(
            "INSERT INTO attempts (task_id, release, attempt, outcome, started_at, ended_at, error) "
            "VALUES ($1, $2, $2, 'failed', $3, $4, $5::text::json)",
            task,
            release,
            NOW + timedelta(seconds=skew),
            NOW,
            f'{{"type":"E","message":"{message}"}}',
        )
    events = (await timeline.read(store, task)).events
    assert [(event.event, event.release, event.detail) for event in events] == [
        ("accepted", None, None),
        ("started", 1, None),
        ("failed", 1, "E: 1"),
        ("started", 3, None),
        ("failed", 3, "E: 2"),
    ]


async def test_the_timeline_of_no_task_is_not_found(store: Database) -> None:
    with pytest.raises(TaskNotFound):
        await timeline.read(store, new_ids(1)[0])
