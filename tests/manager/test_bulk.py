"""POST /v1/tasks/cancel and /v1/tasks/retry: counted first, then done in pages, and nothing twice; over real HTTP."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text

from tacoq_manager import bulk
from tacoq_manager.resubmit import retry_id
from tacoq_manager.store import bulk as store_bulk
from tacoq_manager.store.engine import Database
from tacoq_manager.store.filters import searching
from tacoq_protocol.http import ErrorInfo, TaskFilter
from tacoq_protocol.ids import created_at, id_problem, new_task_id
from tacoq_protocol.states import TaskState
from tests.manager.rows import insert_final, insert_live, new_ids
from tests.manager.serving import Served, serving

DISK_FULL = msgspec.json.encode(ErrorInfo("OSError", "the disk is full")).decode()


def now() -> datetime:
    return datetime.now(UTC)


async def ask(served: Served, action: str, filter: dict[str, Any], **more: Any) -> tuple[int, Any]:
    return await served.ask("POST", f"/v1/tasks/{action}", json={"filter": filter} | more)


async def all_pages(served: Served, action: str, filter: dict[str, Any], **more: Any) -> Counter[str]:
    """Do all of it, page after page; return the sums, and how many pages there were."""
    sums: Counter[str] = Counter()
    while True:
        status, page = await ask(served, action, filter, **more)
        assert status == 200, page
        sums.update(done=page["done"], requested=page.get("requested", 0), pages=1)
        if "next" not in page:
            return sums
        more |= {"after": page["next"], "as_of": page["as_of"]}


async def states(database: Database) -> Counter[str]:
    rows = await database.read.fetch("SELECT state FROM tasks UNION ALL SELECT state FROM task_history")
    return Counter(row["state"] for row in rows)


async def retries(database: Database) -> Counter[UUID]:
    """How often each task was retried."""
    rows = await database.read.fetch("SELECT retry_of FROM tasks UNION ALL SELECT retry_of FROM task_history")
    return Counter(row["retry_of"] for row in rows if row["retry_of"])


async def failed(served: Served, count: int, **fields: Any) -> list[UUID]:
    ids = new_ids(count)
    given = {"state": TaskState.FAILED, "result": None, "error": DISK_FULL, "finished_at": now()} | fields
    await insert_final(served.manager.database, ids, **given)
    return ids


# Counting, and what is refused.


async def test_first_it_is_counted_with_the_oldest_as_a_sample_and_nothing_is_changed(served: Served) -> None:
    ids = [await served.publish(kind="add" if number % 2 else "sub") for number in range(24)]
    status, answer = await ask(served, "cancel", {"kind": "add"})
    assert (status, answer["count"]) == (200, 12)
    assert [view["id"] for view in answer["sample"]] == [str(id) for id in ids[1:20:2]]
    assert await states(served.manager.database) == {"pending": 24}


async def test_nothing_is_done_when_more_are_meant_than_expected(served: Served) -> None:
    for _ in range(3):
        await served.publish()
    status, problem = await ask(served, "cancel", {"kind": "add"}, most=2)
    assert status == 409
    assert "more than 2 tasks are meant" in problem["detail"]
    assert await states(served.manager.database) == {"pending": 3}
    assert await ask(served, "cancel", {"kind": "none"}, most=2) == (200, {"done": 0, "as_of": ANY_TIME})


class _AnyTime:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and datetime.fromisoformat(other).tzinfo is not None

    __hash__ = None  # type: ignore[assignment]


ANY_TIME = _AnyTime()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("cancel", {"filter": {}}, "the filter is empty"),
    ("retry", {"filter": {}, "most": 5}, "the filter is empty"),
    ("cancel", {"filter": {"state": ["pending", "failed"]}}, "a failed task cannot be cancelled"),
    ("retry", {"filter": {"state": ["completed"]}}, "a completed task cannot be retried"),
    ("retry", {"filter": {"state": ["running"]}}, "a running task cannot be retried"),
    ("cancel", {"filter": {"colour": "red"}}, "colour"),
    ("cancel", {"filter": {"kind": "a b"}}, "filter.kind"),
    ("cancel", {"filter": {"error": "a\0"}}, "filter.error"),
    ("cancel", {"filter": {"created_after": "2030-01-01T00:00:00"}}, "filter.created_after"),
    ("cancel", {"filter": {"kind": "add"}, "most": 0}, "most"),
    ("cancel", {"filter": {"kind": "add"}, "as_of": "2999-01-01T00:00:00Z"}, "as_of"),
    ("retry", {"filter": {"kind": "add"}, "as_of": "2020-01-01T00:00:00Z"}, "as_of"),
    ("cancel", {}, "filter"),
]


async def test_what_cannot_be_meant_is_refused(served: Served) -> None:
    for action, body, word in REFUSED:
        status, problem = await served.ask("POST", f"/v1/tasks/{action}", json=body)
        assert status == 422, body
        assert word in problem["detail"], body


# Cancelling.


async def test_ten_thousand_waiting_tasks_are_cancelled_each_once(served: Served) -> None:
    database = served.manager.database
    await insert_live(database, new_ids(7_000), run_at=now())
    await insert_live(database, new_ids(3_000), run_at=now(), state=TaskState.SCHEDULED)
    await insert_live(database, new_ids(10), run_at=now(), kind="sub")
    _, counted = await ask(served, "cancel", {"kind": "add"})
    assert counted["count"] == 10_000
    sums = await all_pages(served, "cancel", {"kind": "add"}, most=10_000, as_of=counted["as_of"])
    assert (sums["done"], sums["requested"]) == (10_000, 0)
    assert await states(database) == {"cancelled": 10_000, "pending": 10}
    labels = {"queue": "default", "kind": "add", "state": "cancelled"}
    assert served.manager.metrics.registry.get_sample_value("tacoq_tasks_final_total", labels) == 10_000
    assert (await ask(served, "cancel", {"kind": "add"}))[1]["count"] == 0


async def test_released_tasks_are_asked_to_stop_and_counted_once(served: Served) -> None:
    database = served.manager.database
    await insert_live(database, new_ids(3), run_at=now())
    await insert_live(database, new_ids(2), run_at=now(), state=TaskState.QUEUED)
    await insert_live(database, new_ids(1), run_at=now(), state=TaskState.RUNNING)
    filter = {"queue": "default"}
    assert await all_pages(served, "cancel", filter, most=6) == {"done": 3, "requested": 3, "pages": 1}
    assert await all_pages(served, "cancel", filter, most=6) == {"done": 0, "requested": 0, "pages": 1}
    rows = await database.read.fetch("SELECT state, cancel_requested FROM tasks")
    assert Counter(map(tuple, rows)) == {("queued", True): 2, ("running", True): 1}


async def test_a_page_ends_where_the_next_one_begins(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PAGE_TASKS", 4)
    monkeypatch.setattr(bulk, "BATCH_TASKS", 2)
    await insert_live(served.manager.database, new_ids(11), run_at=now())
    sums = await all_pages(served, "cancel", {"kind": "add"}, most=11)
    assert sums == {"done": 11, "requested": 0, "pages": 3}


async def test_what_is_published_after_the_count_is_left_alone(served: Served) -> None:
    before = await served.publish()
    _, counted = await ask(served, "cancel", {"kind": "add"})
    after = await served.publish()
    assert (await ask(served, "cancel", {"kind": "add"}, most=1, as_of=counted["as_of"]))[1]["done"] == 1
    assert (await served.ask("GET", f"/v1/tasks/{before}"))[1]["state"] == "cancelled"
    assert (await served.ask("GET", f"/v1/tasks/{after}"))[1]["state"] == "pending"


async def test_tasks_are_meant_by_the_error_of_their_last_run(served: Served) -> None:
    waits = await served.publish(delay=3600)
    await served.publish(delay=3600)
    await served.manager.database.settle.fetch(
        "INSERT INTO attempts (task_id, release, attempt, outcome, ended_at, error)"
        " VALUES ($1, 1, 1, 'failed', now(), $2::text::json)",
        waits,
        DISK_FULL,
    )
    assert (await ask(served, "cancel", {"error": "DISK is full"}, most=1))[1]["done"] == 1
    assert (await served.ask("GET", f"/v1/tasks/{waits}"))[1]["state"] == "cancelled"


async def test_tasks_of_one_fairness_key_are_meant_and_their_retries_keep_it(served: Served) -> None:
    for key in ("a", "b", ""):
        await served.publish(fairness_key=key)
    assert (await ask(served, "cancel", {"fairness_key": "a"}, most=1))[1]["done"] == 1
    assert (await ask(served, "cancel", {"fairness_key": ""}, most=1))[1]["done"] == 1
    assert (await ask(served, "retry", {"state": ["cancelled"], "fairness_key": "a"}, most=1))[1]["done"] == 1
    _, page = await served.ask("GET", "/v1/tasks?state=pending&fairness_key=a")
    assert [view["fairness_key"] for view in page["tasks"]] == ["a"]


# Retrying.


async def test_failed_tasks_are_retried_once_however_often_it_is_asked(served: Served) -> None:
    ids = await failed(served, 30)
    await failed(served, 5, kind="sub")
    await failed(served, 5, error=None, state=TaskState.CANCELLED)
    filter = {"kind": "add", "error": "disk"}
    _, counted = await ask(served, "retry", filter)
    assert counted["count"] == 30
    for expected in (30, 0, 0):
        sums = await all_pages(served, "retry", filter, most=30, as_of=counted["as_of"])
        assert sums["done"] == expected
    assert (await ask(served, "retry", filter))[1]["count"] == 0
    assert await retries(served.manager.database) == Counter(ids)
    _, page = await served.ask("GET", "/v1/tasks?state=pending")
    assert {(view["kind"], view["queue"]) for view in page["tasks"]} == {("add", "default")}


async def test_cancelled_tasks_are_retried_when_they_are_named(served: Served) -> None:
    ids = await failed(served, 3, state=TaskState.CANCELLED)
    await failed(served, 1)
    assert (await ask(served, "retry", {"state": ["cancelled", "expired"]}, most=3))[1]["done"] == 3
    assert await retries(served.manager.database) == Counter(ids)


async def test_a_retry_that_failed_is_itself_retried(served: Served) -> None:
    (first,) = await failed(served, 1)
    database = served.manager.database
    for _ in range(3):
        assert (await ask(served, "retry", {"kind": "add"}, most=1))[1]["done"] == 1
        await database.settle.fetch(
            "WITH gone AS (DELETE FROM tasks RETURNING *) INSERT INTO task_history (id, seq, kind, queue, state,"
            " run_at, fingerprint, payload, finished_at, retry_of) SELECT id, seq, kind, queue, 'failed', run_at,"
            " fingerprint, payload, now(), retry_of FROM gone"
        )
    retried = await retries(database)
    assert len(retried) == 3
    assert set(retried.values()) == {1}
    assert first in retried


async def test_retries_that_are_asked_for_at_once_of_two_managers_publish_each_task_once(
    served: Served, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH_TASKS", 20)
    ids = await failed(served, 200)
    async with serving(database) as other:
        sums = await asyncio.gather(
            *(all_pages(one, "retry", {"kind": "add"}, most=200) for one in [served, other] * 2)
        )
    assert sum(each["done"] for each in sums) == 200
    assert await retries(served.manager.database) == Counter(ids)


async def test_payloads_are_read_in_parts(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH_BYTES", 250)
    ids = await failed(served, 7, payload=b'"' + b"x" * 98 + b'"')
    ids += await failed(served, 1, payload=b'"' + b"y" * 398 + b'"')
    batches = []
    commit = served.manager.accepter.commit

    async def watched(rows: list[Any], keys: Any) -> Any:
        batches.append(sum(len(row.payload) for row in rows))
        return await commit(rows, keys)

    monkeypatch.setattr(served.manager.accepter, "commit", watched)
    assert (await all_pages(served, "retry", {"kind": "add"}, most=8))["done"] == 8
    assert batches == [200, 200, 200, 100, 400]
    assert await retries(served.manager.database) == Counter(ids)


async def test_who_waits_too_long_for_another_retry_may_try_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_bulk, "_TURN_SECONDS", 0.1)
    await failed(served, 1)
    meant = store_bulk.Meant(store_bulk.Action.RETRY, TaskFilter(kind="add"), now())
    async with store_bulk.contents(served.manager.database, meant, most=1, most_bytes=1):
        status, problem = await ask(served, "retry", {"kind": "add"}, most=1)
    assert status == 503
    assert "another retry of many tasks" in problem["detail"]
    assert (await ask(served, "retry", {"kind": "add"}, most=1))[1]["done"] == 1


async def test_a_batch_is_read_along_the_ids(served: Served) -> None:
    """Statistics do not know what failed just now: nothing may be sorted for it."""
    await failed(served, 2_000)
    for action, state in ((store_bulk.Action.RETRY, "failed"), (store_bulk.Action.CANCEL, "pending")):
        filter = TaskFilter(kind="add", state=(TaskState(state),), error="disk")
        meant = store_bulk.Meant(action, filter, now())
        async with searching(served.manager.database) as connection:
            explain = text(f"EXPLAIN SELECT id {meant.rows} ORDER BY id LIMIT 500")
            plan = "\n".join((await connection.scalars(explain, meant.values)).all())
        # The one sort that may be is of the last runs of one task.
        assert not re.search(r"^ {0,12}(->  )?(Incremental )?Sort", plan, re.MULTILINE), plan


def test_the_id_of_a_retry_is_that_of_what_was_asked() -> None:
    task_id, as_of = new_task_id(), now()
    again = retry_id(task_id, as_of)
    assert again == retry_id(task_id, as_of.astimezone(None))
    assert again not in (retry_id(new_task_id(), as_of), retry_id(task_id, as_of + timedelta(seconds=1)))
    assert id_problem(again, as_of) is None
    assert as_of - timedelta(milliseconds=1) <= created_at(again) <= as_of
