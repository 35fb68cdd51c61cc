"""Verdict: what was asked, stored and run in; what is lost, stuck, doubled, wrong or run too often out. Pure.

How each shows:

- **lost**: accepted, and in neither table; **stuck**: still live although all had time to end.
- **doubled**: a final state twice (in both tables, or two rows), or a second outcome. `attempts` has a row per ended
  run, but for first-time successes. The run that ended the task is that of its history's release: another run that
  completed, or any of a later release, is a second outcome; so are more attempts than runs, and an end
  other than the one that a waiter was told.
- **extra runs**: runs beyond one a task, less those that a handler asked for by failing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from tacoq_manager.transitions import MAX_CRASHES
from tacoq_publisher import TaskState
from tests.faults.effects import Ran
from tests.faults.ledger import Entry

_ASKED_FOR = ("failed", "snoozed")
_FAULTS = ("ProcessCrashed", "WorkerLost")  # reported as failures, and no wish of the handler's


class Final(NamedTuple):
    """A row of `task_history`."""

    id: UUID
    state: TaskState
    release: int
    attempt: int
    result: bytes | None
    error: str | None  # its type
    finished_at: datetime


class Attempt(NamedTuple):
    """A row of `attempts`."""

    task_id: UUID
    release: int
    outcome: str
    error: str | None


@dataclass(slots=True)
class Stored:
    """What the manager's database has at the end."""

    live: list[tuple[UUID, TaskState]] = field(default_factory=list)
    final: list[Final] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """The sums of one test; `wrong` says what else is not as it should be, and the first cases of everything."""

    accepted: int
    final: int
    lost: int
    stuck: int
    doubled: int
    extra_runs: int
    faults: int
    wrong: list[str]

    @property
    def good(self) -> bool:
        return not (self.lost or self.stuck or self.doubled or self.wrong) and self.accepted == self.final

    def line(self) -> str:
        """As one line of JSON, without what is wrong."""
        numbers = asdict(self)
        del numbers["wrong"]
        return json.dumps(numbers)


def judge(
    entries: Sequence[Entry], stored: Stored, runs: Sequence[Ran], *, faults: int, slots: int, poison: bool = False
) -> Verdict:
    """Compare. `slots`: how many runs the faults may have repeated. `poison`: they may have hit one task too often."""
    live, final = {task_id for task_id, _ in stored.live}, {row.id: row for row in stored.final}
    known = {entry.task_id: entry for entry in entries}
    # One whose answer was lost counts as accepted when it is there.
    accepted = [entry for entry in entries if entry.accepted or entry.task_id in live | final.keys()]
    lost = [entry.task_id for entry in accepted if entry.task_id not in live | final.keys()]
    stuck = [f"{task_id} {state}" for task_id, state in stored.live]
    doubled = _doubled(stored, live) | _told_otherwise(known, final)
    extra = _extra_runs(stored, runs)
    wrong = [
        *_some("lost", lost),
        *_some("stuck", stuck),
        *_some("doubled", sorted(map(str, doubled))),
        *_some("stored and never asked for", sorted(str(id) for id in (live | final.keys()) - known.keys())),
        *_some("wrong end", _wrong_ends(accepted, final, _hit_too_often(stored) if poison else frozenset())),
        *_some("wrong run", _wrong_runs(known, final, runs)),
    ]
    if extra > slots:
        wrong.append(f"{extra} extra runs, and the faults may cost {slots}")
    ended = sum(entry.task_id in final for entry in accepted)
    return Verdict(len(accepted), ended, len(lost), len(stuck), len(doubled), extra, faults, wrong)


def _doubled(stored: Stored, live: set[UUID]) -> set[UUID]:
    """Tasks with more than one final state, or more than one outcome that counted."""
    rows = Counter(row.id for row in stored.final)
    twice = {task_id for task_id, count in rows.items() if count > 1 or task_id in live}
    final = {row.id: row for row in stored.final}
    ended = Counter(attempt.task_id for attempt in stored.attempts)
    for attempt in stored.attempts:
        row = final.get(attempt.task_id)
        if row is None:
            continue
        later = attempt.release > row.release
        other = attempt.outcome == "completed" and (row.state, row.release) != (TaskState.COMPLETED, attempt.release)
        if later or other:
            twice.add(row.id)
    # A first-time success has no row, and no attempt was used up.
    return twice | {row.id for row in stored.final if row.attempt > ended[row.id]}


def _told_otherwise(known: dict[UUID, Entry], final: dict[UUID, Final]) -> set[UUID]:
    return {
        entry.task_id
        for entry in known.values()
        if entry.told is not None and entry.task_id in final and final[entry.task_id].state is not entry.told
    }


def _extra_runs(stored: Stored, runs: Sequence[Ran]) -> int:
    asked_for: Counter[UUID] = Counter(
        attempt.task_id for attempt in stored.attempts if attempt.outcome in _ASKED_FOR and attempt.error not in _FAULTS
    )
    for row in stored.final:
        if row.state is TaskState.FAILED and row.error not in _FAULTS:
            asked_for[row.id] -= 1  # the failure that ended it asked for nothing
    times = Counter(ran.task_id for ran in runs)
    return sum(max(0, count - 1 - max(0, asked_for[task_id])) for task_id, count in times.items())


def _hit_too_often(stored: Stored) -> frozenset[UUID]:
    crashes = Counter(attempt.task_id for attempt in stored.attempts if attempt.outcome == "crashed")
    return frozenset(task_id for task_id, count in crashes.items() if count >= MAX_CRASHES)


def _wrong_ends(accepted: Sequence[Entry], final: dict[UUID, Final], poisoned: frozenset[UUID]) -> list[str]:
    wrong: list[str] = []
    for entry in accepted:
        row = final.get(entry.task_id)
        if row is None or (row.error == "Poison" and row.id in poisoned):
            continue
        if row.state not in entry.ends:
            wrong.append(f"{entry.kind} {row.id} {row.state} ({row.error})")
        elif row.state is TaskState.COMPLETED and json.loads(row.result or b"null") != entry.result:
            wrong.append(f"{entry.kind} {row.id} returned {row.result!r}, not {entry.result!r}")
    return wrong


def _wrong_runs(known: dict[UUID, Entry], final: dict[UUID, Final], runs: Sequence[Ran]) -> list[str]:
    """A result without the run it came from, and a run that began after its task was cancelled for good."""
    by_task: dict[UUID, list[Ran]] = defaultdict(list)
    for ran in runs:
        by_task[ran.task_id].append(ran)
    wrong = [
        f"{row.id} completed release {row.release}, which never ended"
        for row in final.values()
        if row.state is TaskState.COMPLETED
        and row.id in known
        and not any(ran.release == row.release and ran.ended_at is not None for ran in by_task[row.id])
    ]
    for ran in runs:
        entry = known.get(ran.task_id)
        if entry is not None and entry.cancelled_at is not None and ran.started_at > entry.cancelled_at:
            wrong.append(f"{ran.task_id} began after its cancel was answered as final")
    return wrong


def _some(what: str, cases: Sequence[object], most: int = 5) -> list[str]:
    if not cases:
        return []
    more = f", and {len(cases) - most} more" if len(cases) > most else ""
    return [f"{len(cases)} {what}: {', '.join(map(str, cases[:most]))}{more}"]
