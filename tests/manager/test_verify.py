"""Verify: nothing is said of rows that are as they should be, and each invariant is broken here once, and told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from tacoq_manager import verify as verifying
from tacoq_manager.store import invariants
from tacoq_manager.store.engine import Database
from tacoq_manager.store.history import ensure_partitions
from tacoq_manager.verify import Verdict, lines, verify
from tacoq_protocol.ids import new_task_id
from tests.manager.rows import id_at
from tests.support import spawn
from tests.support.spawn import TACOQ

SESSION = UUID(int=7)
RETENTION = timedelta(days=30)


@pytest_asyncio.fixture
async def rows(database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with a task in each state, as they should be; a manager leads, and a worker lives."""
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE leader SET holder = gen_random_uuid(), expires_at = now() + interval '1 hour'")
    await add_worker(connection, SESSION)
    for state in ("scheduled", "pending", "queued", "running"):
        await add_live(connection, state)
    for state in ("completed", "failed", "cancelled", "expired"):
        await add_final(connection, state)
    yield connection
    await connection.close()


async def add_worker(
    rows: asyncpg.Connection[Any], session: UUID, *, queue: str = "default", ended: timedelta | None = None
) -> None:
    await rows.execute(
        "INSERT INTO workers (session, queue, state, host, pid, slots, kinds, version, started_at, ended_at)"
        " VALUES ($1, $2, $3, 'h', 1, 1, '[]', '1', now(), now() - $4::interval)",
        session,
        queue,
        "live" if ended is None else "lost",
        ended,
    )


async def add_live(rows: asyncpg.Connection[Any], state: str, **columns: object) -> UUID:
    """Insert a live task as the stages would, but for `columns`."""
    out = state in ("queued", "running")
    now = datetime.now(UTC)
    values: dict[str, object] = {
        "id": new_task_id(),
        "kind": "add",
        "queue": "default",
        "state": state,
        "run_at": now + timedelta(hours=state == "scheduled"),
        "fingerprint": b"",
        "payload": b"",
        "release": int(out),
        "queued_at": now if out else None,
        "started_at": now if state == "running" else None,
        "session": SESSION if state == "running" else None,
    }
    return await insert(rows, "tasks", values | columns)


async def add_final(rows: asyncpg.Connection[Any], state: str, **columns: object) -> UUID:
    """Insert a final task as settle would, but for `columns`."""
    ran = state in ("completed", "failed")
    now = datetime.now(UTC)
    values: dict[str, object] = {
        "id": new_task_id(),
        "seq": 1,
        "kind": "add",
        "queue": "default",
        "state": state,
        "run_at": now,
        "fingerprint": b"",
        "payload": b"",
        "release": int(ran),
        "attempt": int(state == "failed"),
        "session": SESSION if ran else None,
        "started_at": now if ran else None,
        "finished_at": now,
        "error": None if state == "completed" else '{"type": "E", "message": ""}',
    } | columns
    if values["attempt"] and columns.get("attempt") is None:
        await add_attempt(rows, values["id"])
    return await insert(rows, "task_history", values)


async def add_attempt(rows: asyncpg.Connection[Any], task_id: object, **columns: object) -> None:
    values = {"task_id": task_id, "release": 1, "attempt": 1, "outcome": "failed", "ended_at": datetime.now(UTC)}
    await insert(rows, "attempts", values | columns)


async def insert(rows: asyncpg.Connection[Any], table: str, values: dict[str, object]) -> UUID:
    names, places = ", ".join(values), ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await rows.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", *values.values())
    return UUID(str(values.get("id", UUID(int=0))))


async def looked(database: str, days: int = 1) -> list[Verdict]:
    return await verify(database, retention=RETENTION, days=days)


def told(verdicts: Sequence[Verdict]) -> dict[str, dict[str, str]]:
    """Return what is broken: by invariant, the detail of each row."""
    assert all(verdict.unknown is None for verdict in verdicts), verdicts
    return {verdict.name: {row.subject: row.detail for row in verdict.rows} for verdict in verdicts if verdict.rows}


async def test_rows_as_they_should_be(rows: asyncpg.Connection[Any], database: str) -> None:
    lost = await add_live(rows, "pending", release=1, queued_at=datetime.now(UTC), attempt=1, crashes=1, max_attempts=2)
    await rows.execute("UPDATE tasks SET session = $2, started_at = now() WHERE id = $1", lost, SESSION)
    await add_attempt(rows, lost, outcome="crashed")
    await add_live(rows, "queued", cancel_requested=True, session=SESSION, started_at=datetime.now(UTC))
    retried = await add_final(rows, "completed", release=3, attempt=1)
    await add_attempt(rows, retried)
    await add_attempt(rows, retried, release=3, outcome="completed")
    await add_attempt(rows, retried, release=2, outcome="returned")
    verdicts = await looked(database)
    assert told(verdicts) == {}
    assert {verdict.name for verdict in verdicts} == {each.name for each in invariants.INVARIANTS} | {"retention"}


async def test_a_task_in_two_places(rows: asyncpg.Connection[Any], database: str) -> None:
    twice = await add_live(rows, "pending", id=await add_final(rows, "completed"))
    assert told(await looked(database)) == {"one place": {str(twice): "pending and completed"}}


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("state", "columns", "says"),
    [
        ("pending", {"release": -1}, "a number is below 0"),
        ("pending", {"cancel_requested": True}, "pending, and it is to be cancelled"),
        ("scheduled", {"cancel_requested": True}, "scheduled, and it is to be cancelled"),
        ("scheduled", {"release": 1, "queued_at": NOW}, "scheduled, with an open release"),
        ("scheduled", {"session": SESSION}, "scheduled, with an open release"),
        ("pending", {"session": SESSION}, "pending, with a run of no release"),
        ("running", {"queued_at": None}, "running, with a run of no release"),
        ("queued", {"queued_at": None}, "queued, and was never released"),
        ("queued", {"release": 0}, "queued, with a release that has no number"),
        ("running", {"release": 0}, "running, with a release that has no number"),
        ("queued", {"session": SESSION, "started_at": NOW}, "queued, with a run of an earlier release"),
        ("running", {"session": None}, "running in no session"),
        ("running", {"started_at": None}, "running in no session"),
        ("running", {"cancel_requested_at": NOW}, "a cancel was asked for and forgotten"),
        ("pending", {"max_attempts": 2, "attempt": 2}, "2 of 2 attempts are used up"),
        ("pending", {"attempt": 3, "crashes": 3}, "it crashed 3 times"),
        ("pending", {"crashes": 1}, "it crashed 1 times in 0 attempts"),
        ("pending", {"attempt": 1}, "1 attempts, and fewer runs on record"),
    ],
)
async def test_a_live_task_that_does_not_fit_its_state(
    rows: asyncpg.Connection[Any], database: str, state: str, columns: dict[str, Any], says: str
) -> None:
    wrong = await add_live(rows, state, **columns)
    assert told(await looked(database)) == {"live tasks": {str(wrong): says}}


@pytest.mark.parametrize(
    ("state", "columns", "says"),
    [
        ("expired", {"attempt": -1}, "a number is below 0"),
        ("completed", {"release": 0}, "completed, and was never released"),
        ("failed", {"release": 0, "attempt": 0}, "failed, and was never released"),
        ("completed", {"session": None}, "completed in no session"),
        ("completed", {"error": "{}"}, "completed, with an error"),
        ("cancelled", {"error": None}, "cancelled, without an error"),
        ("failed", {"result": b"1"}, "failed, with a result"),
        ("failed", {"crashes": 2}, "it crashed 2 times in 1 attempts"),
        ("failed", {"attempt": 2}, "2 attempts, and fewer runs on record"),
    ],
)
async def test_a_final_task_that_does_not_fit_its_state(
    rows: asyncpg.Connection[Any], database: str, state: str, columns: dict[str, Any], says: str
) -> None:
    wrong = await add_final(rows, state, **columns)
    assert told(await looked(database)) == {"final tasks": {str(wrong): says}}


async def test_states_in_the_wrong_table(rows: asyncpg.Connection[Any], database: str) -> None:
    await rows.execute("ALTER TABLE tasks DROP CONSTRAINT tasks_state_is_live")
    await rows.execute("ALTER TABLE task_history DROP CONSTRAINT task_history_state_is_final")
    ended, alive = await add_live(rows, "completed"), await add_final(rows, "running")
    assert told(await looked(database)) == {
        "live tasks": {str(ended): "it is completed"},
        "final tasks": {str(alive): "it is running"},
    }


async def test_runs_of_a_task_that_lives_for_long_may_be_gone(rows: asyncpg.Connection[Any], database: str) -> None:
    """Retention drops them by the day on which they ended."""
    await add_live(rows, "pending", id=id_at(datetime.now(UTC) - timedelta(days=40)), release=3, attempt=2)
    assert told(await looked(database)) == {}


async def test_final_tasks_are_read_as_far_back_as_is_asked_for(rows: asyncpg.Connection[Any], database: str) -> None:
    old = await add_final(rows, "failed", id=id_at(datetime.now(UTC) - timedelta(days=3)), result=b"1")
    assert told(await looked(database)) == {}
    assert told(await looked(database, days=4)) == {"final tasks": {str(old): "failed, with a result"}}


async def test_runs_of_no_task_and_second_outcomes(rows: asyncpg.Connection[Any], database: str) -> None:
    nobody, live = new_task_id(), await add_live(rows, "pending", release=2)
    later, other, failed = [await add_final(rows, state) for state in ("completed", "completed", "cancelled")]
    await add_attempt(rows, nobody)
    await add_attempt(rows, live, outcome="completed")
    await add_attempt(rows, later, release=2)
    await rows.execute("UPDATE task_history SET release = 2 WHERE id = ANY ($1)", [other, failed])
    await add_attempt(rows, other, outcome="completed")
    await add_attempt(rows, failed, outcome="completed")
    assert told(await looked(database)) == {
        "one outcome": {
            f"{nobody} release 1": "there is no such task",
            f"{live} release 1": "it completed, and the task is pending",
            f"{later} release 2": "it ended after the last release",
            f"{other} release 1": "it completed, and the task is completed by release 2",
            f"{failed} release 1": "it completed, and the task is cancelled by release 2",
        }
    }


async def test_keys_of_tasks_that_are_nowhere(rows: asyncpg.Connection[Any], database: str) -> None:
    there, gone, soon = await add_live(rows, "pending"), new_task_id(), datetime.now(UTC) + timedelta(hours=1)
    long_ago = id_at(datetime.now(UTC) - timedelta(days=40))  # of a publisher whose clock stands: its day was dropped
    for key, task, until in (
        ("there", there, soon),
        ("gone", gone, soon),
        ("over", gone, datetime.now(UTC)),
        ("old", long_ago, soon),
    ):
        await rows.execute("INSERT INTO idempotency VALUES ('add', $1, $2, '', $3)", key, task, until)
    again = new_task_id()
    await rows.execute("INSERT INTO absorbed VALUES ($1, $2, '', $3)", again, gone, soon)
    detail = f"its task {gone} is nowhere"
    expected = {"keys": {"key 'gone' of 'add'": detail, f"publish {again}": detail}}
    assert told(await looked(database)) == expected
    assert told(await looked(database, days=60)) == expected


LONG: timedelta = timedelta(minutes=5)


@pytest.mark.timeout(120)
async def test_releases_whose_session_is_gone(rows: asyncpg.Connection[Any], database: str) -> None:
    ended, just, unknown, before = uuid4(), uuid4(), uuid4(), datetime.now(UTC) - LONG
    await add_worker(rows, ended, ended=LONG)
    await add_worker(rows, just, ended=timedelta(seconds=1))
    held = await add_live(rows, "running", session=ended, queued_at=before)
    nobodys = await add_live(rows, "running", session=unknown, queued_at=before)
    await add_live(rows, "running", session=just, queued_at=before)
    await add_live(rows, "running", session=SESSION, queued_at=before)
    await add_live(rows, "queued", queued_at=before)
    unserved = await add_live(rows, "queued", queue="empty", queued_at=before)
    await add_live(rows, "queued", queue="empty")
    broken = told(await looked(database))
    assert set(broken) == {"held"}
    assert set(broken["held"]) == {str(held), str(nobodys), str(unserved)}
    assert broken["held"][str(nobodys)] == f"running in session {unknown}, which is unknown"
    await rows.execute("UPDATE leader SET holder = NULL")  # nobody is there to free them
    assert told(await looked(database)) == {}


async def test_what_should_have_gone_on(rows: asyncpg.Connection[Any], database: str) -> None:
    before, just = datetime.now(UTC) - LONG, datetime.now(UTC) - timedelta(seconds=1)
    late = await add_live(rows, "scheduled", run_at=before)
    await add_live(rows, "scheduled", run_at=just)
    expired = await add_live(rows, "pending", expires_at=before)
    await add_live(rows, "pending", expires_at=just)
    await rows.execute(
        "INSERT INTO schedules (name, source, kind, cron, timezone, missed, payload, next_fire_at)"
        " VALUES ('nightly', 'api', 'add', '* * * * *', 'UTC', 'skip', '', $1)",
        before,
    )
    broken = told(await looked(database))
    assert set(broken) == {"on time"}
    assert set(broken["on time"]) == {str(late), str(expired), "schedule nightly"}
    await rows.execute("UPDATE leader SET expires_at = now()")
    assert told(await looked(database)) == {}


async def test_a_row_that_goes_on_between_two_looks_is_not_told(
    rows: asyncpg.Connection[Any], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = await add_live(rows, "scheduled", run_at=datetime.now(UTC) - LONG)
    pauses: list[float] = []

    async def promote(seconds: float) -> None:
        pauses.append(seconds)
        await rows.execute("UPDATE tasks SET state = 'pending' WHERE id = $1", late)

    monkeypatch.setattr("tacoq_manager.verify.asyncio.sleep", promote)
    assert told(await looked(database)) == {}
    assert pauses == [verifying.LOOK_AGAIN_SECONDS]


@pytest.mark.parametrize(
    ("tokens", "rate", "ahead"), [(-2.0, 5.0, 0), (6.0, 5.0, 0), (2.0, 0.1, 0), (0.0, 0.0, 0), (0.0, 5.0, 60)]
)
async def test_tokens_that_cannot_be(
    rows: asyncpg.Connection[Any], database: str, tokens: float, rate: float, ahead: int
) -> None:
    add = "INSERT INTO buckets (queue, kind, tokens, rate, as_of) VALUES ('default', $1, $2, $3, now() + $4)"
    await rows.execute(add, "fine", 4.5, 5.0, timedelta(0))
    await rows.execute(add, "slow", 0.0, 0.1, timedelta(0))
    assert told(await looked(database)) == {}
    await rows.execute(add, "add", tokens, rate, timedelta(seconds=ahead))
    assert set(told(await looked(database))["tokens"]) == {"default add"}


async def test_no_leader_row_and_two(rows: asyncpg.Connection[Any], database: str) -> None:
    await rows.execute("INSERT INTO leader (epoch, expires_at) VALUES (99, now())")
    assert told(await looked(database)) == {"one leader": {"leader": "2 rows"}}
    await rows.execute("DELETE FROM leader")
    assert told(await looked(database)) == {"one leader": {"leader": "0 rows"}}


async def test_history_that_should_be_gone(
    rows: asyncpg.Connection[Any], store: Database, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, today = datetime.now(UTC) - timedelta(days=40), datetime.now(UTC).date()
    await ensure_partitions(store, old.date(), days_ahead=0)
    await ensure_partitions(store, today - RETENTION, days_ahead=0)
    assert set(told(await looked(database))["retention"]) == {f"task_history_{old:%Y%m%d}", f"attempts_{old:%Y%m%d}"}
    monkeypatch.setattr(invariants, "MOST_STRAYS", 0)
    await add_final(rows, "expired", id=id_at(old))  # it ended lately, and holds its day back
    assert set(told(await looked(database))["retention"]) == {f"attempts_{old:%Y%m%d}"}
    await rows.execute("UPDATE leader SET holder = NULL")
    assert told(await looked(database)) == {}


async def test_what_cannot_be_looked_at_in_time_is_not_good(
    rows: asyncpg.Connection[Any], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "STATEMENT_SECONDS", 0.3)
    async with rows.transaction():
        await rows.execute("LOCK TABLE buckets IN ACCESS EXCLUSIVE MODE")
        verdicts = await looked(database)
    (bad,) = [verdict for verdict in verdicts if not verdict.good]
    assert (bad.name, "statement timeout" in str(bad.unknown)) == ("tokens", True)
    assert lines(bad)[0].startswith("unknown  tokens")


async def test_many_rows_are_cut(rows: asyncpg.Connection[Any], database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "MOST", 15)
    for _ in range(20):
        await add_live(rows, "running", started_at=None)
    (bad,) = [verdict for verdict in await looked(database) if not verdict.good]
    assert len(bad.rows) == 15
    assert lines(bad)[0].endswith("not so of 15 or more")
    assert len(lines(bad)) == 12


async def test_the_command(rows: asyncpg.Connection[Any], database: str) -> None:
    env = {"TACOQ_DATABASE_URL": database}
    code, output = await command(env=env)
    assert (code, {line.split()[0] for line in output.splitlines()}) == (0, {"ok"})
    wrong = await add_live(rows, "running", session=None)
    code, output = await command(env=env)
    assert (code, "broken   live tasks: " in output, f"{wrong}: running in no session" in output) == (1, True, True)
    code, output = await command("--json", "--days", "3", env=env)
    answer = json.loads(output)
    assert (code, answer["good"]) == (1, False)
    (bad,) = [each for each in answer["invariants"] if each["rows"]]
    assert bad["rows"] == [{"subject": str(wrong), "detail": "running in no session"}]


async def test_the_command_says_why_it_cannot_look(rows: asyncpg.Connection[Any], database: str) -> None:
    code, output = await command(env={"TACOQ_DATABASE_URL": "postgresql://me:geheim@127.0.0.1:1/none"})
    assert (code, output.startswith("tacoq: Postgres is not reachable"), "geheim" in output) == (1, True, False)
    await rows.execute("UPDATE alembic_version SET version_num = '0001'")
    code, output = await command(env={"TACOQ_DATABASE_URL": database})
    assert (code, "run: tacoq migrate" in output, len(output.splitlines())) == (1, True, 1)


async def command(*arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """Run `tacoq verify` to its end; return its exit code and what it said."""
    with spawn(TACOQ, "verify", *arguments, env=env) as process:
        code = await asyncio.to_thread(process.wait, 50)
        return code, process.log()
