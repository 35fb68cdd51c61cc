"""The model: what every task must look like, worked out from the moves alone, without a database."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tacoq_manager.transitions import MAX_CRASHES
from tacoq_protocol.messages import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    KindSpec,
    Report,
    Returned,
    ReturnReason,
    Snoozed,
    Started,
)
from tacoq_protocol.states import FINAL, TaskState

S = TaskState
OPEN = {S.PENDING, S.QUEUED, S.RUNNING}


@dataclass
class Task:
    """One accepted task. `released`: its latest release is open; `started`: and its start is on record."""

    id: UUID
    spec: KindSpec
    max_attempts: int
    state: TaskState
    release: int = 0
    attempt: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    released: bool = False
    started: bool = False
    result: bytes | None = None

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def waits(self) -> bool:
        return self.state in {S.SCHEDULED, S.PENDING}

    @property
    def runs_once(self) -> bool:
        """A run that was lost, or may have been, is not made good by another."""
        return self.max_attempts == 1 or self.spec.on_lost == "fail"

    def seen(self) -> tuple[str, int, int, int, bool, bytes | None]:
        """What the row of the task shows of this."""
        return (str(self.state), self.release, self.attempt, self.crashes, self.cancel_requested, self.result)

    def report(self, report: Report) -> None:
        """One report is settled."""
        if self.release != report.release or self.state not in OPEN:
            return  # stale
        match report:
            case Started():
                if self.state is S.QUEUED:
                    self.state, self.started = S.RUNNING, True
            case Completed():
                self._close(S.COMPLETED)
                self.result = report.result
            case Failed():
                counted = self.started and self.state is not S.RUNNING  # when the run was lost
                self.attempt += not counted
                used_up = self.attempt >= self.max_attempts
                self._close(S.SCHEDULED if report.retryable else S.FAILED, fails=used_up)
            case Snoozed():
                self._close(S.SCHEDULED)
            case Cancelled():
                self._close(S.CANCELLED)
            case Expired():
                self._close(S.EXPIRED)
            case Returned():
                if report.reason is not ReturnReason.REDELIVERED:
                    self._close(S.PENDING)

    def claimed(self) -> None:
        assert self.state is S.PENDING, f"{self.state} was claimed"
        self.state, self.release = S.QUEUED, self.release + 1
        self.released, self.started = True, False

    def given_back(self) -> None:
        assert self.state is S.QUEUED
        self.state = S.CANCELLED if self.cancel_requested else S.PENDING

    def lost(self, *, crash: bool) -> None:
        """Its holder, or its message, is lost. It stays open: the outcome may still come."""
        assert self.state in {S.QUEUED, S.RUNNING}, f"{self.state} was lost"
        started = self.state is S.RUNNING
        assert started or not crash, "only a start that is known counts"
        self.attempt += started
        self.crashes += crash
        if started and self.spec.on_lost == "fail":
            self.state = S.FAILED
        elif self.cancel_requested:
            self.state = S.CANCELLED
        elif started and (self.attempt >= self.max_attempts or self.crashes >= MAX_CRASHES):
            self.state = S.FAILED
        else:
            self.state = S.PENDING

    def cancel(self) -> None:
        assert not self.final
        if self.state in {S.QUEUED, S.RUNNING} or (self.state is S.PENDING and self.released):
            self.cancel_requested = True
            self.state = S.QUEUED if self.state is S.PENDING else self.state
        else:
            self.state = S.CANCELLED

    def _close(self, to: TaskState, *, fails: bool = False) -> None:
        if to in {S.SCHEDULED, S.PENDING} and self.cancel_requested:
            to = S.CANCELLED
        elif fails:
            to = S.FAILED
        if to not in FINAL:
            self.release += 1  # a row in the history keeps the number that it ended with
        self.state, self.released, self.started = to, False, False
