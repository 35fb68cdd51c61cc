"""What crosses HTTP: tasks in and out (msgspec, payload and result left as raw JSON), the other views (pydantic).

Tasks go by the thousand through one request, so their models parse in one pass and never look into payload or result;
nothing in them can lead back to them, and the garbage collector need not look at them either.
Field limits are those of the columns; a violation names its place, as in `$.tasks[3].priority`. In the OpenAPI document
a field is described by the clauses of its model's docstring that name it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from pydantic import BaseModel, ConfigDict, Field

from tacoq_protocol.limits import KindLimits, QueueLimits
from tacoq_protocol.states import TaskState

MAX_PAYLOAD_BYTES = 1024 * 1024  # payload, and result
MAX_BATCH_TASKS = 1_000
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_BULK_TASKS = 1_000_000
MAX_WAIT_SECONDS = 60.0
MAX_WAIT_TASKS = 20_000

KIND_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,199}$(?!\n)"
QUEUE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$(?!\n)"
FAIRNESS_KEY_PATTERN = r"^[^\x00-\x1f]{0,200}$(?!\n)"
IDEMPOTENCY_KEY_PATTERN = r"^[^\x00-\x1f]{1,255}$(?!\n)"
IDEMPOTENCY_WINDOW_SECONDS = 24 * 3600.0  # unless the publisher gives another
MAX_UNIQUE_FIELDS = 20

KindName = Annotated[str, Meta(pattern=KIND_PATTERN)]
QueueName = Annotated[str, Meta(pattern=QUEUE_PATTERN)]
Seconds = Annotated[float, Meta(ge=0, le=10 * 366 * 86400)]
FairnessKey = Annotated[str, Meta(pattern=FAIRNESS_KEY_PATTERN)]
IdempotencyKey = Annotated[str, Meta(pattern=IDEMPOTENCY_KEY_PATTERN)]
FieldName = Annotated[str, Meta(min_length=1, max_length=200)]
FieldNames = Annotated[tuple[FieldName, ...], Meta(min_length=1, max_length=MAX_UNIQUE_FIELDS)]
OnConflict = Literal["return", "replace", "reject"]
TraceParent = Annotated[str, Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]


class NewTask(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True, gc=False):
    """A task as an application asks for it.

    `id` is a UUIDv7 of the publisher's own: the same again changes nothing. `kind` selects the handler, `payload` is
    any JSON for it. `queue` left out: the queue whose workers know the kind, else "default". Of `priority` 0 to 9, 9
    goes first. Tasks of different `fairness_key` (a tenant, say) take turns within kind and priority.

    It runs after `delay` or at `run_at`, and is dropped when it has not started after `expires_in` or at `expires_at`.
    `delay` and `expires_in` are seconds counted from the accept on the database's clock; `run_at` and `expires_at` are
    moments with an offset. `max_attempts` (runs that fail) and `timeout` (seconds for one run) go before the kind's
    own.

    Within `idempotency_window` seconds all publishes of a kind with one `idempotency_key` are answered with the first
    one's task, also when it has ended. `unique`: these fields of the payload (true: all of it) have one live task in a
    kind; `on_conflict` says what a publish that meets it does: return it, replace it while it waits, or reject.

    `traceparent` and `tracestate` are the W3C trace context that its runs go on with.
    """

    id: UUID
    kind: KindName
    payload: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    queue: QueueName | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = 0
    fairness_key: FairnessKey = ""
    delay: Seconds | None = None
    run_at: Annotated[datetime, Meta(tz=True)] | None = None
    expires_in: Annotated[float, Meta(gt=0, le=10 * 366 * 86400)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    timeout: Annotated[float, Meta(gt=0, le=366 * 86400)] | None = None
    idempotency_key: IdempotencyKey | None = None
    idempotency_window: Annotated[float, Meta(gt=0, le=10 * 366 * 86400)] | None = None
    unique: bool | FieldNames = False
    on_conflict: OnConflict = "return"
    traceparent: TraceParent | None = None
    tracestate: Annotated[str, Meta(max_length=512)] | None = None


class NewTaskBatch(Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/tasks/batch`: all `tasks` are accepted, or none."""

    tasks: Annotated[list[NewTask], Meta(min_length=1, max_length=MAX_BATCH_TASKS)]


class Accepted(Struct, gc=False):
    """What the manager has committed for one task.

    `duplicate`: the same task was accepted before, or a key that was given with it has one; `id` and `state` are that
    task's. `differs`: the payload that the idempotency key came with first was another one.
    """

    id: UUID
    state: TaskState
    duplicate: bool = False
    differs: bool | UnsetType = UNSET


class AcceptedBatch(Struct):
    """Answer to a batch: `tasks` in the order of the request."""

    tasks: list[Accepted]


class ErrorInfo(Struct, omit_defaults=True, gc=False):
    """Why a run did not complete: `type` is the exception's class name, `message` its text, `traceback` as printed."""

    type: str
    message: str
    traceback: str | None = None


class TaskView(Struct, omit_defaults=True, kw_only=True, gc=False):
    """A task as the manager knows it. Times are UTC.

    `id`, `kind`, `payload`, `priority`, `fairness_key`, `max_attempts` and `timeout` are as published. `queue` is whose
    workers run it. `state` is one of four live and four final ones. `attempt` counts the runs that failed or were lost.
    `release` is the number of its last release, which only grows; it goes up once more when that is over.

    `created_at` is when it was accepted, `run_at` when it is due, `expires_at` when it is dropped unless it has
    started. `queued_at` and `started_at` are of its last release, which `session` runs or ran. `finished_at` is there
    when it is final. `cancel_requested`: its workers were asked to stop it. `retry_of` is the ended task that it
    repeats.

    `error` is why its last run did not complete. `payload` is there when it was asked for, `result` in state
    `completed` only. `result_expired`: it completed, and its result, which was kept for a time, is gone.
    """

    id: UUID
    kind: str
    queue: str
    state: TaskState
    priority: int = 0
    fairness_key: str = ""
    attempt: int = 0
    release: int = 0
    created_at: datetime
    run_at: datetime
    max_attempts: int | None = None
    timeout: float | None = None
    expires_at: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    session: UUID | None = None
    cancel_requested: bool = False
    retry_of: UUID | None = None
    error: ErrorInfo | None = None
    payload: msgspec.Raw | UnsetType = UNSET
    result: msgspec.Raw | UnsetType = UNSET
    result_expired: bool = False


class TaskFilter(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """Which tasks are meant: those that fit everything that is given.

    `kind`, `queue` and `fairness_key` are whole names. `state` is any of these; none given, any at all.
    `created_after` (inclusive) and `created_before` (exclusive) are about the moment inside the task's id. `error` is
    text within the type or the message of the error, in whatever case; for a task that is not final, that of its last
    run.
    """

    kind: KindName | None = None
    queue: QueueName | None = None
    fairness_key: FairnessKey | None = None
    state: tuple[TaskState, ...] = ()
    created_after: Annotated[datetime, Meta(tz=True)] | None = None
    created_before: Annotated[datetime, Meta(tz=True)] | None = None
    error: Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[^\x00]+$")] | None = None


class TaskPage(Struct, omit_defaults=True):
    """A page of `tasks`, newest first; `next` is the cursor of the following page."""

    tasks: list[TaskView]
    next: str | None = None


class BulkRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """Body of `POST /v1/tasks/cancel` and `/v1/tasks/retry`: first without `most`, answered with a BulkCount.

    `filter` says which tasks are meant. With `most` it is done, unless more tasks are meant than that: a page of them,
    answered with a BulkDone. The same request again does what is left of it and nothing twice. `as_of`, from the count,
    leaves out what came later; `after` is the `next` of the page before.
    """

    filter: TaskFilter
    most: Annotated[int, Meta(ge=1, le=MAX_BULK_TASKS)] | None = None
    as_of: Annotated[datetime, Meta(tz=True)] | None = None
    after: UUID | None = None


class BulkCount(Struct, omit_defaults=True):
    """How many tasks are meant: `count`, or, with `more`, at least as many. `sample` has the oldest of them.

    `as_of` is the time up to which they were made: to be sent back when it is to be done.
    """

    count: int
    as_of: datetime
    sample: list[TaskView]
    more: bool = False


class BulkDone(Struct, omit_defaults=True):
    """What this request did.

    `done` counts tasks cancelled, or published again; `requested` those whose workers were asked to stop them. `next`:
    there are more; repeat the request with it as `after`, and with this `as_of`.
    """

    done: int
    as_of: datetime
    requested: int = 0
    next: UUID | None = None


class WaitRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/tasks/wait`: answered with a line of JSON (a TaskView) per task, as each becomes final.

    After `timeout` seconds the stream ends; those of `ids` without a line were not final. An unknown id gets a line
    `UnknownTask`.
    """

    ids: Annotated[list[UUID], Meta(min_length=1, max_length=MAX_WAIT_TASKS)]
    timeout: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 30.0


class UnknownTask(Struct, gc=False):
    """A line of the wait stream for an `id` that no task has: `unknown` is true."""

    id: UUID
    unknown: bool = True


class View(BaseModel):
    """Base of the views that are not on the hot path."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # a newer manager may say more


TASK_EXISTS = "urn:tacoq:task-exists"  # a problem's type: `task_id` is the live task that has the unique key


class Problem(View):
    """RFC 9457 problem details. `index` and `pointer` name the offending task of a batch and the place inside it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    index: int | None = None
    pointer: str | None = None
    task_id: UUID | None = None
    schedule: str | None = None


class TimelineEvent(View):
    """One thing that happened to a task. `release` is the fence of the run it belongs to."""

    at: datetime
    event: str
    release: int | None = None
    session: UUID | None = None
    detail: str | None = None


class Timeline(View):
    """Events of a task, oldest first."""

    id: UUID
    events: list[TimelineEvent]


class WorkerView(View):
    """A worker session. `state` is live, draining, left or lost; `held` counts the releases it has now."""

    session: UUID
    queue: str
    state: str
    host: str
    pid: int
    slots: int
    held: int = 0
    kinds: list[str]
    labels: dict[str, str] = {}
    version: str
    started_at: datetime
    seen_at: datetime
    rss_bytes: int | None = None
    loop_blocked: bool = False
    detail: str | None = Field(None, description="How it ended")


class RunView(View):
    """A run of a worker session; `started_at` is by the worker's clock, None while the start is not on record."""

    id: UUID
    kind: str
    state: TaskState
    release: int
    attempt: int
    started_at: datetime | None


class WorkerDetail(WorkerView):
    """A worker session and what runs there: the oldest runs, those that its reports or its heartbeats told of."""

    running: list[RunView]


class QueueView(View):
    """A queue now: tasks by live state, live slots, and the credit that is left; what is set for it."""

    name: str
    scheduled: int
    pending: int
    queued: int
    running: int
    workers: int
    slots: int
    credit: int
    paused: bool = Field(False, description="Nothing of it is released")
    limits: QueueLimits = QueueLimits()


class HeldKey(View):
    """A fairness key of a kind of which nothing is released until then."""

    fairness_key: str
    until: datetime


class KindView(View):
    """A kind as its workers registered it; `payload_schema` and `result_schema` are JSON Schema."""

    name: str
    queue: str
    max_attempts: int
    timeout: float | None
    on_lost: str
    payload_schema: dict[str, Any]
    result_schema: dict[str, Any]
    seen_at: datetime
    limits: KindLimits = Field(KindLimits(), description="Those that hold")
    override: KindLimits = Field(KindLimits(), description="Of these, those that were set at run time")
    held_until: datetime | None = Field(None, description="Nothing of it is released until then, by `RateLimited`")
    held_keys: list[HeldKey] = Field([], description="At most 100, those that are held for longest first")


class WhichWorkers(BaseModel):
    """Live sessions: all of this queue, on this host, or both. At least one is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: str | None = None
    host: str | None = None


class DrainWorkers(WhichWorkers):
    """Body of `POST /v1/workers/drain`."""

    leave: bool = Field(False, description="End the session once what runs has ended")


class Workers(View):
    workers: list[WorkerView]


class Queues(View):
    queues: list[QueueView]


class Kinds(View):
    kinds: list[KindView]


class Cancelled(View):
    """Answer to a cancel: `state` is cancelled when it is final (200), else a request was recorded (202)."""

    id: UUID
    state: TaskState
    cancel_requested: bool = Field(description="True when a worker has been asked to stop it")
