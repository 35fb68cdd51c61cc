"""Every (state × move × right, closed or unknown release) on real Postgres, against the table of `transitions`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from tacoq_manager import transitions as moves
from tacoq_manager.store import settle
from tacoq_manager.store.engine import Database
from tacoq_manager.transitions import Transition
from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    Fence,
    KindSpec,
    Returned,
    ReturnReason,
    Snoozed,
    Started,
)
from tacoq_protocol.states import FINAL, TaskState

S = TaskState
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = uuid4()
SPEC = KindSpec("k", max_attempts=3)
FATAL = KindSpec("k", max_attempts=3, on_lost="fail")
ERROR = ErrorInfo("E", "m")
OPEN = {S.PENDING, S.QUEUED, S.RUNNING}


@dataclass(frozen=True)
class Move:
    """One named move: how it is made, from where it may start, and where a fresh task ends up."""

    make: Callable[[UUID, int], Transition]
    from_states: set[TaskState]
    to: TaskState | None
    closes: bool = True
    fenced: bool = True


MOVES: dict[str, Move] = {
    "start": Move(lambda i, r: moves.start(Started(i, r, NOW), SESSION), {S.QUEUED}, S.RUNNING, closes=False),
    "complete": Move(lambda i, r: moves.complete(Completed(i, r, NOW, 1.0, b"3"), SESSION), OPEN, S.COMPLETED),
    "fail": Move(
        lambda i, r: moves.fail(Failed(i, r, NOW, 1.0, 0, ERROR, True), SESSION, SPEC, 60.0), OPEN, S.SCHEDULED
    ),
    "fail for good": Move(
        lambda i, r: moves.fail(Failed(i, r, NOW, 1.0, 0, ERROR, False), SESSION, SPEC, 0.0), OPEN, S.FAILED
    ),
    "snooze": Move(lambda i, r: moves.snooze(Snoozed(i, r, NOW, 1.0, 60.0), SESSION), OPEN, S.SCHEDULED),
    "stop": Move(lambda i, r: moves.stop(Cancelled(i, r, None, 0.0, "asked"), SESSION), OPEN, S.CANCELLED),
    "run out": Move(lambda i, r: moves.run_out(Expired(i, r), SESSION), OPEN, S.EXPIRED),
    "hand back": Move(lambda i, r: moves.hand_back(Returned(i, r, ReturnReason.SHUTDOWN), SESSION), OPEN, S.PENDING),
    "refuse": Move(lambda i, r: moves.refuse(Fence(i, r), SESSION, "NUL"), OPEN, S.FAILED),
    "give back": Move(lambda i, r: moves.give_back(Fence(i, r)), {S.QUEUED}, S.PENDING, closes=False),
    "lose unstarted": Move(
        lambda i, r: moves.lose(Fence(i, r), started=False, session=None, spec=SPEC, detail="d"),
        {S.QUEUED},
        S.PENDING,
        closes=False,
    ),
    "lose started": Move(
        lambda i, r: moves.lose(Fence(i, r), started=True, session=SESSION, spec=SPEC, detail="d", crash=True),
        {S.RUNNING},
        S.PENDING,
        closes=False,
    ),
    "lose started, on_lost=fail": Move(
        lambda i, r: moves.lose(Fence(i, r), started=True, session=SESSION, spec=FATAL, detail="d"),
        {S.RUNNING},
        S.FAILED,
    ),
    "cancel": Move(lambda i, r: moves.cancel(i)[0], {S.SCHEDULED, S.PENDING}, S.CANCELLED, fenced=False),
    "request cancel": Move(lambda i, r: moves.cancel(i)[1], {S.QUEUED, S.RUNNING}, None, False, fenced=False),
    "expire": Move(lambda i, r: moves.expire(i), {S.SCHEDULED, S.PENDING}, S.EXPIRED, fenced=False),
}

RELEASE = 5  # the latest release of every task here
RELEASES = {"right": RELEASE, "closed": RELEASE - 1, "not there yet": RELEASE + 1}


class Tasks:
    """Rows in any state, made and read without the code under test."""

    def __init__(self, database: Database, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.database = database
        self.connection = connection

    async def make(self, state: TaskState, **columns: object) -> UUID:
        task_id = new_task_id()
        row: dict[str, object] = {
            "id": task_id,
            "kind": "k",
            "queue": "q",
            "state": str(state),
            "release": RELEASE,
            "run_at": NOW,
            "payload": b"1",
            "fingerprint": b"f",
            **columns,
        }
        if state in FINAL:
            row |= {"seq": 1, "finished_at": NOW}
        table = "task_history" if state in FINAL else "tasks"
        holes = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await self.connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({holes})", *row.values())
        return task_id

    async def rows(self, task_id: UUID) -> list[asyncpg.Record]:
        live = await self.connection.fetch("SELECT * FROM tasks WHERE id = $1", task_id)
        return [*live, *await self.connection.fetch("SELECT * FROM task_history WHERE id = $1", task_id)]

    async def row(self, task_id: UUID) -> asyncpg.Record:
        (row,) = await self.rows(task_id)
        return row

    async def apply(self, *transitions: Transition) -> list[settle.Applied]:
        return await settle.apply(self.database.settle, transitions)


@pytest.fixture
async def tasks(database: str) -> AsyncIterator[Tasks]:
    connection = await asyncpg.connect(database)
    store = Database(database)
    yield Tasks(store, connection)
    await store.close()
    await connection.close()


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", MOVES)
async def test_move_from_every_state(tasks: Tasks, name: str, release: str) -> None:
    """A move takes place from its states with its release, and from nowhere else; losing changes nothing."""
    move = MOVES[name]
    for state in TaskState:
        task_id = await tasks.make(state)
        before = await tasks.row(task_id)
        applied = await tasks.apply(move.make(task_id, RELEASES[release]))
        after = await tasks.row(task_id)  # exactly one row, whatever happened
        legal = state in move.from_states and (release == "right" or not move.fenced)
        assert bool(applied) == legal, f"{name} from {state} with the {release} release"
        if not legal:
            assert after == before
            continue
        expected = move.to or state
        assert (after["state"], applied[0].state, applied[0].was) == (expected, expected, state)
        assert ("finished_at" in after.keys()) == (expected in FINAL)  # noqa: SIM118 (a record)
        if expected not in FINAL:
            assert after["release"] == RELEASE + move.closes


@pytest.mark.parametrize("name", [name for name, move in MOVES.items() if move.closes and move.fenced])
async def test_a_report_closes_its_release(tasks: Tasks, name: str) -> None:
    """Whatever was reported first, a second report of the same release is stale."""
    for second in ("complete", "fail", "hand back"):
        task_id = await tasks.make(S.RUNNING)
        assert await tasks.apply(MOVES[name].make(task_id, RELEASE))
        settled = await tasks.row(task_id)
        assert not await tasks.apply(MOVES[second].make(task_id, RELEASE))
        assert await tasks.row(task_id) == settled


@pytest.mark.parametrize("name", [name for name, move in MOVES.items() if move.to in {S.SCHEDULED, S.PENDING}])
@pytest.mark.parametrize("state", [S.QUEUED, S.RUNNING])
async def test_requested_cancel_beats_every_return(tasks: Tasks, name: str, state: TaskState) -> None:
    task_id = await tasks.make(state, cancel_requested=True)
    applied = await tasks.apply(MOVES[name].make(task_id, RELEASE))
    assert bool(applied) == (state in MOVES[name].from_states)
    assert (await tasks.row(task_id))["state"] == (S.CANCELLED if applied else state)


async def test_completion_that_was_first_beats_a_requested_cancel(tasks: Tasks) -> None:
    task_id = await tasks.make(S.RUNNING, cancel_requested=True)
    await tasks.apply(MOVES["complete"].make(task_id, RELEASE))
    row = await tasks.row(task_id)
    assert (row["state"], row["result"], row["error"]) == (S.COMPLETED, b"3", None)


@pytest.mark.parametrize(
    ("own", "attempt", "to"), [(None, 1, S.SCHEDULED), (None, 2, S.FAILED), (1, 0, S.FAILED), (5, 3, S.SCHEDULED)]
)
async def test_last_attempt_fails_for_good(tasks: Tasks, own: int | None, attempt: int, to: TaskState) -> None:
    """The task's own max_attempts goes before the kind's (3)."""
    task_id = await tasks.make(S.RUNNING, attempt=attempt, max_attempts=own)
    await tasks.apply(MOVES["fail"].make(task_id, RELEASE))
    row = await tasks.row(task_id)
    assert (row["state"], row["attempt"]) == (to, attempt + 1)


async def test_late_report_after_a_loss_counts_once(tasks: Tasks) -> None:
    """The lost run used up its attempt already; its late failure uses up no second one, and corrects the record."""
    task_id = await tasks.make(S.QUEUED)
    await tasks.apply(MOVES["start"].make(task_id, RELEASE))
    await tasks.apply(MOVES["lose started"].make(task_id, RELEASE))
    row = await tasks.row(task_id)
    assert (row["state"], row["attempt"], row["crashes"], row["announced"]) == (S.PENDING, 1, 1, True)
    await tasks.apply(MOVES["fail"].make(task_id, RELEASE))
    row = await tasks.row(task_id)
    assert (row["state"], row["attempt"]) == (S.SCHEDULED, 1)
    (ended,) = await tasks.connection.fetch("SELECT outcome FROM attempts WHERE task_id = $1", task_id)
    assert ended["outcome"] == "failed"


async def test_run_lost_before_its_start_was_known_costs_nothing(tasks: Tasks) -> None:
    task_id = await tasks.make(S.QUEUED)
    await tasks.apply(MOVES["lose unstarted"].make(task_id, RELEASE))
    row = await tasks.row(task_id)
    assert (row["state"], row["attempt"], row["crashes"], row["announced"]) == (S.PENDING, 0, 0, True)
    (ended,) = await tasks.connection.fetch("SELECT outcome, attempt FROM attempts WHERE task_id = $1", task_id)
    assert tuple(ended) == ("returned", 0)


async def test_last_crash_is_poison_and_names_the_sessions_that_died(tasks: Tasks) -> None:
    task_id = await tasks.make(S.QUEUED, max_attempts=100)
    sessions = [uuid4() for _ in range(moves.MAX_CRASHES)]
    for number, session in enumerate(sessions):
        fence = Fence(task_id, RELEASE + number)
        await tasks.connection.execute("UPDATE tasks SET state = 'queued', release = $2 WHERE id = $1", *fence)
        await tasks.apply(moves.start(Started(*fence, NOW), session))
        lost = moves.lose(fence, started=True, session=session, spec=SPEC, detail="was killed by SIGSEGV", crash=True)
        await tasks.apply(lost)
    row = await tasks.row(task_id)
    error = json.loads(row["error"])
    assert (row["state"], row["crashes"], error["type"]) == (S.FAILED, moves.MAX_CRASHES, "Poison")
    assert all(str(session) in error["message"] for session in sessions)
    assert "was killed by SIGSEGV" in error["message"]


async def test_run_lost_beside_the_cause_costs_an_attempt_and_is_no_crash(tasks: Tasks) -> None:
    task_id = await tasks.make(S.RUNNING, crashes=moves.MAX_CRASHES - 1, max_attempts=100)
    await tasks.apply(moves.lose(Fence(task_id, RELEASE), started=True, session=SESSION, spec=SPEC, detail="d"))
    row = await tasks.row(task_id)
    assert (row["state"], row["attempt"], row["crashes"]) == (S.PENDING, 1, moves.MAX_CRASHES - 1)


@pytest.mark.parametrize(("name", "announced"), [("hand back", True), ("fail", False), ("snooze", False)])
async def test_next_run_after_a_loss_stays_announced_until_it_has_run(tasks: Tasks, name: str, announced: bool) -> None:
    task_id = await tasks.make(S.QUEUED, announced=True)
    await tasks.apply(MOVES[name].make(task_id, RELEASE))
    assert (await tasks.row(task_id))["announced"] is announced


async def test_cancel_is_a_request_while_an_older_release_may_be_about(tasks: Tasks) -> None:
    never_released = await tasks.make(S.PENDING)
    given_back = await tasks.make(S.QUEUED, queued_at=NOW)
    await tasks.apply(MOVES["give back"].make(given_back, RELEASE))
    handed_back = await tasks.make(S.QUEUED, queued_at=NOW)
    await tasks.apply(MOVES["hand back"].make(handed_back, RELEASE))
    applied = await tasks.apply(*(moves.cancel(id)[0] for id in (never_released, given_back, handed_back)))
    assert {move.transition.task_id: move.state for move in applied} == {
        never_released: S.CANCELLED,
        given_back: S.QUEUED,
        handed_back: S.CANCELLED,
    }
    row = await tasks.row(given_back)
    assert (row["release"], row["cancel_requested"], row["queued_at"]) == (RELEASE, True, NOW)


async def test_error_with_a_nul_character_is_kept(tasks: Tasks) -> None:
    task_id = await tasks.make(S.RUNNING)
    report = Failed(task_id, RELEASE, NOW, 1.0, 0, ErrorInfo("E", "a\0b"), False)
    await tasks.apply(moves.fail(report, SESSION, SPEC, 0.0))
    assert "\\u0000" in (await tasks.row(task_id))["error"]
