"""Looking at tasks, on a real Postgres: by id, by filter, over time; live or final in one statement."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET
from sqlalchemy import text

from tacoq_manager.store import filters, tasks
from tacoq_manager.store.engine import Database
from tacoq_manager.store.history import ensure_partitions
from tacoq_manager.store.results import Results
from tacoq_protocol.errors import FilterRefused
from tacoq_protocol.http import ErrorInfo, TaskFilter
from tacoq_protocol.states import TaskState
from tests.manager.rows import id_at, insert_final, insert_live, new_ids

NOW = datetime(2030, 5, 10, 12, tzinfo=UTC)


async def test_views_tell_live_and_final_tasks_and_leave_out_the_others(store: Database) -> None:
    live, final, unknown = new_ids(3)
    await insert_live(store, [live], run_at=NOW, state=TaskState.SCHEDULED)
    await insert_final(store, [final], finished_at=NOW)
    views = {view.id: view for view in await tasks.views(store, [live, final, unknown])}
    assert set(views) == {live, final}
    assert views[live].state is TaskState.SCHEDULED
    assert views[live].run_at == NOW
    assert views[live].result is UNSET
    assert views[final].finished_at == NOW
    assert views[final].payload is UNSET
    assert bytes(views[final].result or b"") == b"3"
    assert msgspec.json.decode(msgspec.json.encode(views[final]))["result"] == 3


async def test_the_payload_comes_as_it_went_in_when_it_is_asked_for(store: Database) -> None:
    live, final = new_ids(2)
    payload = b'{"text": "\\u0000 \xc3\xa9", "n": 1e400}'
    await insert_live(store, [live], run_at=NOW, payload=payload)
    await insert_final(store, [final], finished_at=NOW, payload=payload)
    for view in await tasks.views(store, [live, final], payload=True):
        assert bytes(view.payload or b"") == payload


async def test_an_error_is_told_and_its_absence_is_none(store: Database) -> None:
    failed, completed = new_ids(2)
    error = '{"type": "ValueError", "message": "no \\u0000", "traceback": "…"}'
    await insert_final(store, [failed], finished_at=NOW, state=TaskState.FAILED, result=None, error=error)
    await insert_final(store, [completed], finished_at=NOW)
    views = {view.id: view for view in await tasks.views(store, [failed, completed])}
    assert views[failed].error == ErrorInfo("ValueError", "no \0", "…")
    assert views[failed].result is UNSET
    assert views[completed].error is None


async def test_ended_gives_final_tasks_whole_and_of_live_ones_the_id(store: Database) -> None:
    live, final, unknown = new_ids(3)
    await insert_live(store, [live], run_at=NOW)
    await insert_final(store, [final], finished_at=NOW)
    views, alive = await tasks.ended(store, Results(), [live, final, unknown])
    assert [view.id for view in views] == [final]
    assert views == await tasks.views(store, [final])
    assert alive == {live}


async def test_lookups_use_the_primary_keys_even_when_tables_are_empty_or_large(store: Database) -> None:
    await ensure_partitions(store, NOW.date(), days_ahead=2)
    await insert_final(store, [id_at(NOW, number) for number in range(2_000)], finished_at=NOW)
    await store.upkeep.fetch("ANALYZE task_history")
    await store.upkeep.fetch("VACUUM ANALYZE tasks")
    for name, statement in (("views", tasks.VIEWS), ("ended", tasks._ENDED)):
        # As a generic plan, which is what the hot connection runs.
        types, more = ("uuid[], boolean", ", false") if "$2" in statement else ("uuid[]", "")
        await store.read.fetch(f"PREPARE {name}({types}) AS {statement}")
        given = f"ARRAY['{id_at(NOW)}']::uuid[]{more}"
        explained = await store.read.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE {name}({given})")
        plan = "\n".join(row[0] for row in explained)
        assert "Seq Scan" not in plan, plan
        assert "Hash" not in plan, plan
        assert "Merge" not in plan, plan
        looked_at = {
            line.split(" using ")[1].split()[0] for line in plan.splitlines() if "actual" in line and " using " in line
        }
        assert looked_at == {"tasks_pkey", "task_history_20300510_pkey"}, plan  # no other partition was touched


async def test_what_failed_is_found_without_reading_what_went_well(store: Database) -> None:
    await ensure_partitions(store, NOW.date(), days_ahead=2)
    await insert_final(store, [id_at(NOW, number) for number in range(2_000)], finished_at=NOW)
    await store.upkeep.fetch("ANALYZE task_history")
    where = tasks._where(TaskFilter(state=(TaskState.FAILED, TaskState.EXPIRED)), "task_history", None)
    statement = f"SELECT id FROM task_history WHERE {where.replace(':state', '$1')} ORDER BY id DESC LIMIT 8"
    await store.read.fetch("SET plan_cache_mode = force_generic_plan")
    await store.read.fetch(f"PREPARE undone(text[]) AS {statement}")
    plan = await store.read.fetch("EXPLAIN (COSTS OFF) EXECUTE undone(ARRAY['failed', 'expired'])")
    used = [row[0] for row in plan if "Scan" in row[0]]
    assert used
    assert all("_id_idx" in line for line in used), used  # as the partitions' parts of task_history_undone are named


async def test_the_list_is_newest_first_over_live_and_final(store: Database) -> None:
    ids = [id_at(NOW + timedelta(seconds=number)) for number in range(6)]
    await insert_live(store, ids[::2], run_at=NOW)
    await insert_final(store, ids[1::2], finished_at=NOW)
    page = await tasks.find(store, TaskFilter())
    assert [view.id for view in page.tasks] == ids[::-1]
    assert page.next is None
    assert all(view.result is UNSET and view.payload is UNSET for view in page.tasks)


async def test_pages_follow_each_other_without_gap_or_double(store: Database) -> None:
    ids = [id_at(NOW + timedelta(seconds=number)) for number in range(10)]
    await insert_live(store, ids[:5], run_at=NOW)
    await insert_final(store, ids[5:], finished_at=NOW)
    seen, cursor, pages = [], None, 0
    while True:
        page = await tasks.find(store, TaskFilter(), cursor=cursor, limit=5)
        seen += [view.id for view in page.tasks]
        pages += 1
        if page.next is None:
            break
        cursor = page.tasks[-1].id
        assert str(cursor) == page.next
    assert seen == ids[::-1]
    assert pages == 2


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (TaskFilter(kind="add"), {0, 1}),
        (TaskFilter(queue="slow"), {1, 3}),
        (TaskFilter(kind="add", queue="slow"), {1}),
        (TaskFilter(state=(TaskState.PENDING,)), {0, 1}),
        (TaskFilter(state=(TaskState.COMPLETED, TaskState.FAILED)), {2, 3}),
        (TaskFilter(state=(TaskState.PENDING, TaskState.FAILED)), {0, 1, 3}),
        (TaskFilter(kind="none"), set()),
    ],
)
async def test_filters_hold_together(store: Database, filter: TaskFilter, expected: set[int]) -> None:
    ids = new_ids(4)
    await insert_live(store, ids[0:1], run_at=NOW)
    await insert_live(store, ids[1:2], run_at=NOW, queue="slow")
    await insert_final(store, ids[2:3], finished_at=NOW, kind="sub")
    await insert_final(store, ids[3:4], finished_at=NOW, kind="sub", queue="slow", state=TaskState.FAILED)
    page = await tasks.find(store, filter)
    assert {ids.index(view.id) for view in page.tasks} == expected


async def test_a_filter_in_time_is_by_the_moment_in_the_id(store: Database) -> None:
    ids = [id_at(NOW + timedelta(seconds=number)) for number in range(4)]
    await insert_live(store, ids[::2], run_at=NOW)
    await insert_final(store, ids[1::2], finished_at=NOW)

    async def found(after: datetime | None, before: datetime | None) -> list[UUID]:
        page = await tasks.find(store, TaskFilter(created_after=after, created_before=before))
        return [view.id for view in page.tasks]

    assert await found(NOW + timedelta(seconds=1), NOW + timedelta(seconds=3)) == ids[2:0:-1]
    assert await found(datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)) == ids[::-1]
    assert await found(None, datetime(1960, 1, 1, tzinfo=UTC)) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("timeout", {0, 1, 4}),
        ("TimeoutError: no answer", {0, 4}),
        ('said "no', {2}),
        ("100%", {3}),
        ("timeout  of", {1}),
        ('disk \\ "\\u0000"', {1}),
        ("message", set()),
        ("deep in the traceback", set()),
    ],
)
async def test_text_of_the_error_is_found_in_whatever_case(store: Database, error: str, expected: set[int]) -> None:
    ids = new_ids(6)
    for id, type, message in (
        (ids[0], "TimeoutError", "no answer"),
        (ids[1], "OSError", 'a TIMEOUT \0\0 of the disk \\\0 "\\u0000"'),
        (ids[2], "ValueError", 'he said "no\n"'),
        (ids[3], "OSError", "it is 100% full"),
    ):
        info = msgspec.json.encode(ErrorInfo(type, message, "deep in the traceback")).decode()
        await insert_final(store, [id], finished_at=NOW, state=TaskState.FAILED, result=None, error=info)
    await insert_live(store, ids[4:], run_at=NOW)  # one of them waits for its next try
    for release, type in ((1, "OSError"), (2, "TimeoutError")):
        await store.settle.fetch(
            "INSERT INTO attempts (task_id, release, attempt, outcome, ended_at, error)"
            " VALUES ($1, $2, 1, 'failed', now(), json_build_object('type', $3::text, 'message', 'no answer'))",
            ids[4],
            release,
            type,
        )
    page = await tasks.find(store, TaskFilter(error=error))
    assert {ids.index(view.id) for view in page.tasks} == expected


async def test_a_search_that_takes_too_long_is_refused(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as short:
        short.setattr(filters, "SEARCH_SECONDS", 0.01)
        with pytest.raises(FilterRefused, match="narrow it, by created_after"):
            async with filters.searching(store) as connection:
                await connection.execute(text("SELECT pg_sleep(60)"))
    assert (await tasks.find(store, TaskFilter(kind="add"))).tasks == []  # the connection is as good as before


async def test_queue_counts_are_of_live_tasks(store: Database) -> None:
    await insert_live(store, new_ids(3), run_at=NOW)
    await insert_live(store, new_ids(2), run_at=NOW, state=TaskState.RUNNING, queue="slow")
    await insert_final(store, new_ids(1), finished_at=NOW)
    assert await tasks.queue_counts(store) == {"default": {TaskState.PENDING: 3}, "slow": {TaskState.RUNNING: 2}}
