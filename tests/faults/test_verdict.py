"""The checker can fail: for each thing it looks for, rows that are wrong in just that way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tacoq_publisher import TaskState, new_task_id
from tests.faults.__main__ import total
from tests.faults.effects import Ran
from tests.faults.ledger import Entry
from tests.faults.verdict import Attempt, Final, Stored, Verdict, judge

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(**given: object) -> Entry:
    return replace(Entry(new_task_id(), "add", 3, accepted=True), **given)  # type: ignore[arg-type]


def final(task_id: UUID, state: TaskState = TaskState.COMPLETED, **given: object) -> Final:
    return Final(task_id, state, 1, 0, b"3", None, NOW)._replace(**given)  # type: ignore[arg-type]


def ran(task_id: UUID, release: int = 1, *, started_at: datetime = NOW, ended_at: datetime | None = NOW) -> Ran:
    return Ran(task_id, release, 1, started_at, ended_at)


def of(
    entries: list[Entry], stored: Stored, runs: list[Ran] | None = None, *, faults: int = 0, slots: int = 0
) -> Verdict:
    """The verdict; each final task ran, unless the runs are given."""
    given = [ran(row.id, row.release) for row in stored.final] if runs is None else runs
    return judge(entries, stored, given, faults=faults, slots=slots)


def test_all_that_was_accepted_and_completed_once_is_good() -> None:
    tasks = [entry() for _ in range(3)]
    verdict = of(tasks, Stored(final=[final(task.task_id) for task in tasks]), faults=2)
    assert verdict.good
    assert verdict.line() == (
        '{"accepted": 3, "final": 3, "lost": 0, "stuck": 0, "doubled": 0, "extra_runs": 0, "faults": 2}'
    )


def test_task_that_is_nowhere_is_lost() -> None:
    verdict = of([entry()], Stored())
    assert (verdict.accepted, verdict.final, verdict.lost, verdict.good) == (1, 0, 1, False)


def test_task_whose_accept_was_never_answered_may_be_nowhere() -> None:
    assert of([entry(accepted=False)], Stored()).good


def test_task_whose_accept_was_never_answered_counts_when_it_is_there() -> None:
    task = entry(accepted=False)
    verdict = of([task], Stored(live=[(task.task_id, TaskState.PENDING)]))
    assert (verdict.accepted, verdict.final, verdict.stuck, verdict.good) == (1, 0, 1, False)


@pytest.mark.parametrize("state", [TaskState.SCHEDULED, TaskState.PENDING, TaskState.QUEUED, TaskState.RUNNING])
def test_live_task_is_stuck(state: TaskState) -> None:
    task = entry()
    verdict = of([task], Stored(live=[(task.task_id, state)]))
    assert (verdict.stuck, verdict.lost, verdict.good) == (1, 0, False)


def test_task_nobody_asked_for_is_wrong() -> None:
    assert not of([], Stored(final=[final(new_task_id())])).good


def test_task_in_both_tables_is_doubled() -> None:
    task = entry()
    verdict = of([task], Stored(live=[(task.task_id, TaskState.QUEUED)], final=[final(task.task_id)]))
    assert (verdict.doubled, verdict.good) == (1, False)


def test_task_twice_in_history_is_doubled() -> None:
    task = entry()
    rows = [final(task.task_id), final(task.task_id, TaskState.FAILED)]
    assert of([task], Stored(final=rows)).doubled == 1


@pytest.mark.parametrize(
    "attempt", [("completed", 1), ("completed", 3), ("failed", 3)], ids=["earlier", "later", "later failure"]
)
def test_outcome_of_another_run_than_the_last_is_doubled(attempt: tuple[str, int]) -> None:
    task, (outcome, release) = entry(), attempt
    last = [Attempt(task.task_id, 2, "completed", None)]
    stored = Stored(
        final=[final(task.task_id, release=2)], attempts=[*last, Attempt(task.task_id, release, outcome, None)]
    )
    verdict = of([task], stored)
    assert (verdict.doubled, verdict.good) == (1, False)


def test_completed_run_of_a_task_that_failed_is_doubled() -> None:
    task = entry(ends=frozenset({TaskState.FAILED}))
    attempts = [Attempt(task.task_id, 1, "completed", None)]
    rows = [final(task.task_id, TaskState.FAILED, error="ValueError")]
    assert of([task], Stored(final=rows, attempts=attempts)).doubled == 1


def test_run_that_counts_twice_against_its_task_is_doubled() -> None:
    task = entry()
    attempts = [Attempt(task.task_id, 1, "lost", "WorkerLost"), Attempt(task.task_id, 2, "completed", None)]
    rows = [final(task.task_id, release=2, attempt=3)]
    assert of([task], Stored(final=rows, attempts=attempts)).doubled == 1


def test_end_other_than_the_one_a_waiter_was_told_is_doubled() -> None:
    task = entry(told=TaskState.CANCELLED)
    assert of([task], Stored(final=[final(task.task_id)])).doubled == 1


def test_losses_and_retries_before_the_last_run_are_not_doubled() -> None:
    task = entry()
    attempts = [
        Attempt(task.task_id, 1, "lost", "WorkerLost"),
        Attempt(task.task_id, 2, "failed", "ValueError"),
        Attempt(task.task_id, 4, "completed", None),
    ]
    stored = Stored(final=[final(task.task_id, release=4, attempt=2)], attempts=attempts)
    runs = [ran(task.task_id, release) for release in (1, 2, 4)]
    verdict = of([task], stored, runs, faults=1, slots=1)
    assert (verdict.doubled, verdict.extra_runs, verdict.good) == (0, 1, True)


def test_more_extra_runs_than_the_faults_had_slots_to_hit_are_wrong() -> None:
    task = entry()
    runs = [ran(task.task_id), ran(task.task_id), ran(task.task_id, 2)]
    stored = Stored(final=[final(task.task_id, release=2)])
    assert of([task], stored, runs, faults=1, slots=2).good
    verdict = of([task], stored, runs, faults=1, slots=1)
    assert (verdict.extra_runs, verdict.good) == (2, False)


def test_run_that_died_in_its_process_asked_for_no_other() -> None:
    task = entry()
    attempts = [Attempt(task.task_id, 1, "failed", "ProcessCrashed"), Attempt(task.task_id, 2, "completed", None)]
    stored = Stored(final=[final(task.task_id, release=2, attempt=1)], attempts=attempts)
    assert of([task], stored, [ran(task.task_id), ran(task.task_id, 2)]).extra_runs == 1


def test_failure_that_ended_a_task_asked_for_no_other_run() -> None:
    task = entry(ends=frozenset({TaskState.FAILED}))
    rows = [final(task.task_id, TaskState.FAILED, error="ValueError", attempt=1)]
    attempts = [Attempt(task.task_id, 1, "failed", "ValueError")]
    stored = Stored(final=rows, attempts=attempts)
    assert of([task], stored, [ran(task.task_id), ran(task.task_id)]).extra_runs == 1


@pytest.mark.parametrize("wrong", [{"result": b"4"}, {"result": None}, {"state": TaskState.FAILED}])
def test_wrong_result_and_wrong_end_are_wrong(wrong: dict[str, object]) -> None:
    task = entry()
    assert not of([task], Stored(final=[final(task.task_id)._replace(**wrong)])).good  # type: ignore[arg-type]


@pytest.mark.parametrize(("crashes", "poison", "good"), [(3, True, True), (2, True, False), (3, False, False)])
def test_poison_is_right_only_where_faults_may_hit_a_task_so_often_and_did(
    crashes: int, poison: bool, good: bool
) -> None:
    task = entry()
    attempts = [Attempt(task.task_id, release, "crashed", "WorkerLost") for release in range(1, crashes + 1)]
    rows = [final(task.task_id, TaskState.FAILED, error="Poison", release=crashes, attempt=crashes)]
    stored = Stored(final=rows, attempts=attempts)
    runs = [ran(task.task_id, release) for release in range(1, crashes + 1)]
    assert judge([task], stored, runs, faults=3, slots=3, poison=poison).good is good


def test_result_without_the_run_it_came_from_is_wrong() -> None:
    task = entry()
    stored = Stored(final=[final(task.task_id)])
    assert not of([task], stored, []).good
    assert not of([task], stored, [ran(task.task_id, ended_at=None)]).good


def test_run_that_begins_after_its_cancel_was_final_is_wrong() -> None:
    task = entry(ends=frozenset({TaskState.CANCELLED}), cancelled_at=NOW)
    stored = Stored(final=[final(task.task_id, TaskState.CANCELLED)])
    assert of([task], stored, [ran(task.task_id, started_at=NOW - timedelta(seconds=1))]).good
    assert not of([task], stored, [ran(task.task_id, started_at=NOW + timedelta(seconds=1))]).good


def test_verdicts_are_summed() -> None:
    line = of([task := entry()], Stored(final=[final(task.task_id)]), faults=3).line()
    assert total(f"{line}\n{line}\n") == {
        "accepted": 2, "final": 2, "lost": 0, "stuck": 0, "doubled": 0, "extra_runs": 0, "faults": 6,
    }  # fmt: skip
