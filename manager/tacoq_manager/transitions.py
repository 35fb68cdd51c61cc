"""Every move of a task: a report, a loss or a request in, one `Transition` for `store.settle` out. Pure.

    move              from                          to
    ───────────────   ───────────────────────────   ─────────────────────────────────────────────────────────
    promote           scheduled                     pending                              (store.schedule)
    replace           scheduled, pending            scheduled, pending: no release open  (store.keyed)
    claim             pending                       queued, release + 1: opens it        (store.claim)
    start             queued                        running
    give_back         queued                        pending                              leaves the release open
    lose              queued, running               pending; failed: used up, poison     leaves the release open
    complete          pending, queued, running      completed
    fail              pending, queued, running      scheduled; failed: used up, not retryable
    snooze            pending, queued, running      scheduled
    hand_back         pending, queued, running      pending
    stop              pending, queued, running      cancelled
    run_out           pending, queued, running      expired                              the worker saw the deadline
    refuse            pending, queued, running      failed                               no place for the report
    cancel            scheduled, pending            cancelled; queued, cancel_requested: its release is open
    request_cancel    queued, running               unchanged, cancel_requested
    expire            scheduled, pending            expired

A move for a run matches its fence: the release must be the task's latest and still open. Reports close it, by raising
the number, so that a second one is stale. `give_back` and `lose` leave it open: a task that came back to pending may
still get the outcome of the run that was thought lost, until it is claimed again; this is why reports start from
pending, too. A requested cancel beats every return to scheduled or pending.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, assert_never
from uuid import UUID

import msgspec

from tacoq_protocol.http import ErrorInfo
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
from tacoq_protocol.states import RELEASED, TaskState

MAX_CRASHES: Final = 3  # runs lost with their worker, before a task counts as the cause

SCHEDULED, PENDING, QUEUED, RUNNING = TaskState.SCHEDULED, TaskState.PENDING, TaskState.QUEUED, TaskState.RUNNING
_OPEN: Final = frozenset({PENDING, QUEUED, RUNNING})
_WAITING: Final = frozenset({SCHEDULED, PENDING})
_QUEUED: Final = frozenset({QUEUED})


class Transition(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # nothing that it holds can hold it
    """One move, as data for one set-based statement.

    `release` None: a move that is not for a run, whatever the release. `to` None: the state stays. `outcome` is the
    word for the attempts table; None when no release ended. `attempt_limit` is the kind's; the task's own goes
    before it. `delay` is in seconds; a move to scheduled has one.
    """

    move: str
    task_id: UUID
    release: int | None
    from_states: frozenset[TaskState]
    to: TaskState | None
    closes: bool = False
    costs_attempt: bool = False
    crash: bool = False
    attempt_limit: int | None = None
    delay: float | None = None
    request_cancel: bool = False
    session: UUID | None = None
    started_at: datetime | None = None
    seconds: float | None = None
    outcome: str | None = None
    result: bytes | None = None
    error: ErrorInfo | None = None


def start(report: Started, session: UUID) -> Transition:
    return Transition(
        move="start",
        task_id=report.task_id,
        release=report.release,
        from_states=_QUEUED,
        to=RUNNING,
        session=session,
        started_at=report.started_at,
        seconds=report.seconds or None,
    )


def complete(report: Completed, session: UUID) -> Transition:
    return Transition(
        move="complete",
        task_id=report.task_id,
        release=report.release,
        from_states=_OPEN,
        to=TaskState.COMPLETED,
        closes=True,
        session=session,
        started_at=report.started_at,
        seconds=report.seconds,
        outcome="completed",
        result=report.result,
    )


def fail(report: Failed, session: UUID, spec: KindSpec, delay: float) -> Transition:
    """The run failed: scheduled again after `delay` seconds while attempts are left, else final."""
    return Transition(
        move="fail",
        task_id=report.task_id,
        release=report.release,
        from_states=_OPEN,
        to=SCHEDULED if report.retryable else TaskState.FAILED,
        closes=True,
        costs_attempt=True,
        attempt_limit=spec.max_attempts,
        delay=delay,
        session=session,
        started_at=report.started_at,
        seconds=report.seconds,
        outcome="failed",
        error=report.error,
    )


def snooze(report: Snoozed, session: UUID) -> Transition:
    return Transition(
        move="snooze",
        task_id=report.task_id,
        release=report.release,
        from_states=_OPEN,
        to=SCHEDULED,
        closes=True,
        delay=report.delay,
        session=session,
        started_at=report.started_at,
        seconds=report.seconds,
        outcome="snoozed",
    )


def stop(report: Cancelled, session: UUID) -> Transition:
    """The worker stopped the run, or never began it, because of a cancel; or the handler raised `Cancel`."""
    return Transition(
        move="stop",
        task_id=report.task_id,
        release=report.release,
        from_states=_OPEN,
        to=TaskState.CANCELLED,
        closes=True,
        session=session,
        started_at=report.started_at,
        seconds=report.seconds if report.started_at is not None else None,  # else it says nothing of the kind's runs
        outcome="cancelled" if report.started_at is not None else None,
        error=ErrorInfo("Cancelled", report.reason),
    )


def run_out(report: Expired, session: UUID) -> Transition:
    return Transition(
        move="run_out",
        task_id=report.task_id,
        release=report.release,
        from_states=_OPEN,
        to=TaskState.EXPIRED,
        closes=True,
        session=session,
        error=ErrorInfo("Expired", "the deadline passed while it was queued"),
    )


def hand_back(report: Returned, session: UUID) -> Transition:
    """The worker will not run it (any reason but a redelivery, which says nothing about the run)."""
    return Transition(
        move="hand_back",
        task_id=report.task_id,
        release=report.release,
        from_states=_OPEN,
        to=PENDING,
        closes=True,
        session=session,
        outcome="returned",
        error=ErrorInfo("Returned", _why_returned(report.reason)),
    )


def _why_returned(reason: ReturnReason) -> str:
    match reason:
        case ReturnReason.SHUTDOWN:
            return "its worker was stopped"
        case ReturnReason.DRAINING:
            return "its worker was drained"
        case ReturnReason.REDELIVERED:
            return "the broker gave it a second time"
        case ReturnReason.UNKNOWN_KIND:
            return "its worker does not know the kind"
        case ReturnReason.SLOW:
            return "it stood behind a long run"
        case ReturnReason.SILENT:
            return "its worker may have been taken for lost"
        case _:
            assert_never(reason)


def give_back(fence: Fence) -> Transition:
    """The message was not confirmed: perhaps the broker has it all the same, so the release stays open."""
    return Transition(
        move="give_back",
        task_id=fence.task_id,
        release=fence.release,
        from_states=_QUEUED,
        to=PENDING,
    )


def lose(
    fence: Fence, *, started: bool, session: UUID | None, spec: KindSpec, detail: str, crash: bool = False
) -> Transition:
    """The holder or the message of a release is lost.

    Only a run whose start was reported costs an attempt. `crash`: it is suspected of having ended its session, which
    makes the task poison when it comes to MAX_CRASHES.
    """
    fatal = started and spec.on_lost == "fail"
    return Transition(
        move="lose",
        task_id=fence.task_id,
        release=fence.release,
        from_states=frozenset({RUNNING}) if started else _QUEUED,
        to=TaskState.FAILED if fatal else PENDING,
        costs_attempt=started,
        crash=crash and started,
        attempt_limit=spec.max_attempts,
        session=session,
        outcome=("crashed" if crash else "lost") if started else "returned",
        error=ErrorInfo("WorkerLost" if started else "Returned", detail),
    )


def cancel(task_id: UUID) -> list[Transition]:
    """Cancel whatever state the task is in: at once when nobody can hold it, else as a request. One of the two matches.

    One that came back to pending with its release open is queued again, by that release: what holds the release, or
    the rescue, then says that nothing of it will run.
    """
    return [
        Transition(
            move="cancel",
            task_id=task_id,
            release=None,
            from_states=_WAITING,
            to=TaskState.CANCELLED,
            request_cancel=True,
            error=ErrorInfo("Cancelled", "cancelled before it ran"),
        ),
        Transition(
            move="request_cancel",
            task_id=task_id,
            release=None,
            from_states=RELEASED,
            to=None,
            request_cancel=True,
        ),
    ]


def expire(task_id: UUID) -> Transition:
    return Transition(
        move="expire",
        task_id=task_id,
        release=None,
        from_states=_WAITING,
        to=TaskState.EXPIRED,
        error=ErrorInfo("Expired", "the deadline passed before it was released"),
    )


def refuse(fence: Fence, session: UUID, reason: str) -> Transition:
    """A report that Postgres does not take: its task alone fails, and the others of the batch go on."""
    return Transition(
        move="refuse",
        task_id=fence.task_id,
        release=fence.release,
        from_states=_OPEN,
        to=TaskState.FAILED,
        closes=True,
        costs_attempt=True,
        session=session,
        outcome="failed",
        error=ErrorInfo("ReportRefused", reason),
    )
