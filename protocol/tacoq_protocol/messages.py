"""What crosses AMQP: releases to workers, reports back, presence, control and news of settled tasks.

Releases and reports are arrays on the wire (a message holds many): fields are only ever appended, with a default;
a change that an older reader would misread gets a new format number in `codec`. They come by the thousand and lead
nowhere: the garbage collector need not look at them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from tacoq_protocol.cron import Cron
from tacoq_protocol.http import ErrorInfo


class Fence(NamedTuple):
    """What a write for a run must match: the task, and the number of its release."""

    task_id: UUID
    release: int


class Release(Struct, array_like=True, frozen=True, gc=False):
    """One hand-over of a task to the workers.

    `attempt` counts the ended runs that used up an attempt, so 0 is the first try. `timeout` is in seconds; it and
    `max_attempts` are the task's own, which go before the kind's. A release that is `announced` may run only after its
    start report was confirmed: the task has been lost before.
    """

    task_id: UUID
    release: int
    kind: str
    attempt: int
    payload: bytes
    created_at: datetime
    timeout: float | None = None
    expires_at: datetime | None = None
    announced: bool = False
    traceparent: str | None = None
    tracestate: str | None = None
    max_attempts: int | None = None

    @property
    def fence(self) -> Fence:
        return Fence(self.task_id, self.release)


class Releases(Struct):
    """1..k releases of one queue."""

    queue: str
    releases: list[Release]


class ReturnReason(StrEnum):
    """Why a release was not run: costs no attempt."""

    SHUTDOWN = "shutdown"
    DRAINING = "draining"
    REDELIVERED = "redelivered"  # the broker gave it a second time; another session may still run it
    UNKNOWN_KIND = "unknown_kind"
    SLOW = "slow"  # it stood behind a slow run of the same message, or every slot had one
    SILENT = "silent"  # managers may have taken the session for lost since it had this


class Started(Struct, array_like=True, tag="s", frozen=True, gc=False):
    """The handler is about to run, or has run for so many `seconds` and goes on."""

    task_id: UUID
    release: int
    started_at: datetime
    seconds: float = 0.0


class Completed(Struct, array_like=True, tag="c", frozen=True, gc=False):
    """The handler returned; `result` is JSON in one line.

    `seconds` is the run's length on the worker's monotonic clock.
    """

    task_id: UUID
    release: int
    started_at: datetime
    seconds: float
    result: bytes


class Failed(Struct, array_like=True, tag="f", frozen=True, gc=False):
    """The handler raised, ran out of time, or its payload did not fit. `delay` (seconds) overrides the policy's."""

    task_id: UUID
    release: int
    started_at: datetime
    seconds: float
    attempt: int
    error: ErrorInfo
    retryable: bool
    delay: float | None = None
    kind: str = ""  # whose policy the manager applies


class Cancelled(Struct, array_like=True, tag="x", frozen=True, gc=False):
    """The run stopped because a cancel was asked for, or raised `Cancel`. `started_at` is None when it never ran."""

    task_id: UUID
    release: int
    started_at: datetime | None
    seconds: float
    reason: str


class Holds(StrEnum):
    """What else waits with a snoozed task."""

    KIND = "kind"
    KEY = "key"  # its fairness key of the kind


class Snoozed(Struct, array_like=True, tag="z", frozen=True, gc=False):
    """The handler asked to be run again in `delay` seconds; costs no attempt. `holds`: it found itself rate limited."""

    task_id: UUID
    release: int
    started_at: datetime
    seconds: float
    delay: float
    holds: Holds | None = None


class Expired(Struct, array_like=True, tag="e", frozen=True, gc=False):
    """The deadline had passed when the run should have started."""

    task_id: UUID
    release: int


class Returned(Struct, array_like=True, tag="r", frozen=True, gc=False):
    """A release that was not run."""

    task_id: UUID
    release: int
    reason: ReturnReason


Outcome = Completed | Failed | Cancelled | Snoozed | Expired | Returned
Report = Started | Completed | Failed | Cancelled | Snoozed | Expired | Returned


class Reports(Struct):
    """All that a session has to report since the last confirm came back, in the order it happened."""

    session: UUID
    queue: str
    reports: list[Report]


class Backoff(Struct, frozen=True):
    """Wait before retry n: min(max, base × factor^(n-1)), then drawn uniformly from its upper half. Seconds.

    Half-fixed, half-random ("equal jitter", M. Brooker, "Exponential Backoff And Jitter", 2015): never near zero.
    """

    base: float = 1.0
    factor: float = 2.0
    max: float = 3600.0

    def ceiling(self, failed: int) -> float:
        """Return the longest wait after the `failed`-th failed attempt, 1 for the first; the shortest is half of it."""
        try:
            return min(self.max, self.base * self.factor ** (failed - 1))
        except OverflowError:  # of a long series
            return self.max


class KindSpec(Struct, frozen=True):
    """A kind as its worker registers it. Schemas are JSON. With a `cron` it has a schedule of its own name."""

    name: str
    max_attempts: int = 3
    backoff: Backoff = Backoff()
    timeout: float | None = None
    on_lost: str = "retry"  # or "fail"
    payload_schema: bytes = b"{}"
    result_schema: bytes = b"{}"
    cron: Cron | None = None
    concurrency: int | None = None
    rate: str | None = None  # as `rates` reads it
    max_per_key: int | None = None
    rate_per_key: str | None = None


class Register(Struct, tag=True):
    """A session begins, or introduces itself again when asked."""

    session: UUID
    queue: str
    slots: int
    kinds: list[KindSpec]
    kinds_hash: str
    host: str
    pid: int
    version: str
    started_at: datetime
    labels: dict[str, str] = {}


class Heartbeat(Struct, tag=True):
    """A session lives.

    `running` lists the releases that run for more than 5 s; `loop_blocked`: its event loop did not answer. `taken`
    counts the messages that its consumer was ever given.
    """

    session: UUID
    queue: str
    slots: int
    held: int
    running: list[Fence]
    kinds_hash: str
    version: str
    draining: bool = False
    loop_blocked: bool = False
    rss_bytes: int | None = None
    taken: int = 0


class Leave(Struct, tag=True):
    """A session ended by itself, having reported and handed back all it held."""

    session: UUID
    queue: str


class Lost(Struct, tag=True):
    """The supervisor of a session saw its process die. `detail` tells the exit code or signal."""

    session: UUID
    queue: str
    detail: str


class Inventory(Struct, tag=True):
    """Answer to `AskHeld`: every release the session holds, run or not."""

    session: UUID
    queue: str
    question: UUID
    held: list[Fence]


class ManagerBeat(Struct, tag=True):
    """A manager hears its own beat: presence works. It hears the others': they live."""

    manager: UUID


class AskSettled(Struct, tag=True):
    """A manager asks the others to answer with `HasSettled` once they have settled all reports they were given."""

    manager: UUID
    question: UUID


class HasSettled(Struct, tag=True):
    """Answer to `AskSettled`. `consumes_for`: seconds since it began to consume reports; None when it does not."""

    manager: UUID
    question: UUID
    consumes_for: float | None


Presence = Register | Heartbeat | Leave | Lost | Inventory | ManagerBeat | AskSettled | HasSettled


class CancelRuns(Struct, tag=True):
    """Stop these tasks, whichever release; keep the ones not seen yet until they show up."""

    task_ids: list[UUID]


class Drain(Struct, tag=True):
    """Take no more releases, and hand back what has not started; what runs goes on. `leave`: then end the session."""

    leave: bool = False


class Resume(Struct, tag=True):
    """Take releases again, after a `Drain` that was not to leave."""


class Rebuild(Struct, tag=True):
    """Consume anew: the manager sees releases that nobody takes."""


class AskHeld(Struct, tag=True):
    """Answer with an `Inventory` that repeats `question`."""

    question: UUID


class Introduce(Struct, tag=True):
    """Send `Register` again: a manager does not know the session, or its kinds."""


Control = CancelRuns | Drain | Resume | Rebuild | AskHeld | Introduce


class Settled(Struct):
    """Ids that became final, releases that ended and such as came back, told by one manager to the others."""

    manager: UUID
    final: list[UUID]
    ended: list[tuple[int, str, str, str, int]]  # transaction, queue, kind, key: how many releases less count as out
    redelivered: list[Fence] = []  # handed back because the broker gave them a second time
    limits: bool = False  # they were changed
    outlasted: list[tuple[str, str, float]] = []  # queue, kind, and seconds for which a run of it goes on


class DeadCause(StrEnum):
    """Why a message, or a part of one, is among the dead letters."""

    UNREADABLE = "unreadable"  # it is not what it says it is, or of a version that is not known
    REFUSED = "refused"  # what it says cannot be stored


class DeadLetter(Struct):
    """What nobody can do anything with but people. `format` and `body` are those of the message from `source`.

    Of a message whose other parts were taken, `body` has only the part that was refused.
    """

    cause: DeadCause
    reason: str
    source: str  # a queue
    format: str
    body: bytes
