"""The tables, as SQLAlchemy metadata. Migrations under alembic/ make them; a test holds the two equal.

- `tasks` holds live tasks only and stays small; `task_history` holds final ones, by the day inside their UUIDv7.
- `seq` is the order of accept. `release` is the fence: raised by every claim and by every report that is applied.
- Payload and result are bytes: what came in goes out, and no content can fail a statement for its neighbours.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from tacoq_manager.transitions import MAX_CRASHES

metadata = MetaData()

_moment = DateTime(timezone=True)


def _task_columns() -> list[Column[object]]:
    """Columns that a task keeps for life; `task_history` adds the outcome."""
    return [
        Column("kind", Text, nullable=False),
        Column("queue", Text, nullable=False),
        Column("fairness_key", Text, nullable=False, server_default=""),
        Column("priority", SmallInteger, nullable=False, server_default="0"),
        Column("state", Text, nullable=False),
        Column("release", Integer, nullable=False, server_default="0"),
        Column("attempt", Integer, nullable=False, server_default="0"),  # ended runs that used up an attempt
        Column("crashes", Integer, nullable=False, server_default="0"),  # of these, runs lost with their worker
        Column("max_attempts", Integer),  # NULL: the kind's
        Column("timeout", Double),  # seconds for one run; NULL: the kind's
        Column("created_at", _moment, nullable=False, server_default=func.now()),
        Column("run_at", _moment, nullable=False),
        Column("expires_at", _moment),
        Column("queued_at", _moment),  # of the latest release
        Column("started_at", _moment),  # of the latest release, by the worker's clock
        Column("session", Uuid),  # that reported the start of the latest release
        Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
        Column("cancel_requested_at", _moment),
        Column("announced", Boolean, nullable=False, server_default=text("false")),  # next release alone, start first
        Column("retry_of", Uuid),
        Column("unique_key", LargeBinary),  # of kind and payload fields: one live task has it
        Column("traceparent", Text),
        Column("tracestate", Text),
        Column("fingerprint", LargeBinary, nullable=False),  # of what was asked for: tells a resend from a conflict
        Column("payload", LargeBinary, nullable=False),
    ]


tasks = Table(
    "tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("seq", BigInteger, Identity(always=True), nullable=False),
    *_task_columns(),
    Column("queue_given", Boolean, nullable=False, server_default=text("true")),  # false: by the kind's, or a guess
    CheckConstraint("state IN ('scheduled', 'pending', 'queued', 'running')", name="tasks_state_is_live"),
)
Index(
    "tasks_pending",  # claim: the head of a lane; its order is the claim's ORDER BY
    tasks.c.queue,
    tasks.c.kind,
    tasks.c.fairness_key,
    tasks.c.priority.desc(),
    tasks.c.run_at,
    tasks.c.seq,
    postgresql_where=text("state = 'pending'"),
)
Index("tasks_scheduled", tasks.c.run_at, postgresql_where=text("state = 'scheduled'"))  # the schedule step
Index("tasks_in_flight", tasks.c.queue, postgresql_where=text("state IN ('queued', 'running')"))  # recount, rescue
Index(  # claim: tasks that are poison when they crash once more
    "tasks_last_chance",
    tasks.c.queue,
    postgresql_where=text(f"crashes >= {MAX_CRASHES - 1}"),
)
Index("tasks_retry_of", tasks.c.retry_of, postgresql_where=text("retry_of IS NOT NULL"))  # is it retried already?
Index(
    "tasks_expires",  # the expire step
    tasks.c.expires_at,
    postgresql_where=text("expires_at IS NOT NULL AND state IN ('scheduled', 'pending')"),
)

Index("tasks_unique", tasks.c.unique_key, unique=True, postgresql_where=text("unique_key IS NOT NULL"))

task_history = Table(
    "task_history",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    *_task_columns(),
    Column("finished_at", _moment, nullable=False),
    Column("result", LargeBinary),
    Column("error", JSON),  # json, not jsonb: it may hold \u0000
    CheckConstraint("state IN ('completed', 'failed', 'cancelled', 'expired')", name="task_history_state_is_final"),
    postgresql_partition_by="RANGE (id)",
)
# Few among many, and what people look for: without it a look for them reads all that went well.
Index("task_history_undone", task_history.c.id, postgresql_where=text("state <> 'completed'"))
Index("task_history_retry_of", task_history.c.retry_of, postgresql_where=text("retry_of IS NOT NULL"))

attempts = Table(  # ended releases, but for first-time successes, whose row in task_history says it all
    "attempts",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    Column("release", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("outcome", Text, nullable=False),  # completed, failed, snoozed, cancelled, lost, crashed; returned: not run
    Column("session", Uuid),
    Column("started_at", _moment),
    Column("ended_at", _moment, nullable=False),
    Column("seconds", Double),
    Column("error", JSON),
    Column("due_at", _moment),
    Column("queued_at", _moment),
    postgresql_partition_by="RANGE (task_id)",
)

idempotency = Table(  # which task the first publish with a key was answered with; outlives the task
    "idempotency",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("task_id", Uuid, nullable=False),
    Column("payload_digest", LargeBinary, nullable=False),
    Column("expires_at", _moment, nullable=False),
)
Index("idempotency_expires", idempotency.c.expires_at)  # the prune step

absorbed = Table(  # publishes that became no task of their own: sent again they get the same answer
    "absorbed",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("task_id", Uuid, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("expires_at", _moment, nullable=False),
)
Index("absorbed_expires", absorbed.c.expires_at)  # the prune step

PARTITIONED = {"task_history": "id", "attempts": "task_id"}

workers = Table(  # sessions, for people and after a restart; beats never come here
    "workers",
    metadata,
    Column("session", Uuid, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("state", Text, nullable=False),  # live, left, lost
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("kinds", JSON, nullable=False),
    Column("labels", JSONB, nullable=False, server_default="{}"),
    Column("version", Text, nullable=False),
    Column("started_at", _moment, nullable=False),
    Column("ended_at", _moment),
    Column("detail", Text),
)

task_stats = Table(  # each manager adds to rows of its own
    "task_stats",
    metadata,
    Column("minute", _moment, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("manager", Uuid, primary_key=True),
    *(
        Column(name, Integer, nullable=False)
        for name in ("completed", "failed", "cancelled", "expired", "retried", "runs")
    ),
    Column("run_seconds", Double, nullable=False),
)

kinds = Table(
    "kinds",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("spec", JSON, nullable=False),
    Column("seen_at", _moment, nullable=False, server_default=func.now()),
    Column("limits", JSON),  # set at run time: before those of the spec
)

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("limits", JSON),
)

buckets = Table(  # tokens left of a rate that were not all there when it was last drawn on
    "buckets",
    metadata,
    Column("queue", Text, nullable=False),
    Column("kind", Text),  # NULL: the queue's
    Column("fairness_key", Text),  # NULL: the kind's
    Column("tokens", Double, nullable=False),
    Column("as_of", _moment, nullable=False),
    Column("rate", Double, nullable=False),  # tokens a second, from then on
)
Index(
    "buckets_of",
    buckets.c.queue,
    buckets.c.kind,
    buckets.c.fairness_key,
    unique=True,
    postgresql_nulls_not_distinct=True,
)

holds = Table(  # what a handler found to be limited elsewhere
    "holds",
    metadata,
    Column("queue", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("fairness_key", Text),  # NULL: all of the kind
    Column("until", _moment, nullable=False),
)
Index("holds_of", holds.c.queue, holds.c.kind, holds.c.fairness_key, unique=True, postgresql_nulls_not_distinct=True)

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("queue", Text),  # NULL: the kind's
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("missed", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("expires_in", Double),  # seconds from when its task is made
    Column("created_at", _moment, nullable=False, server_default=func.now()),
    Column("declared_at", _moment),  # by code: start of the session whose declaration stands here
    Column("retired_at", _moment),  # by code: its workers were there, and none declared it
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("next_fire_at", _moment),  # NULL: paused, retired, or never again
    Column("last_fire_at", _moment),
    Column("last_task", Uuid),
    CheckConstraint("source IN ('api', 'code')", name="schedules_source"),
    CheckConstraint("missed IN ('skip', 'run_once', 'run_all')", name="schedules_missed"),
)
Index("schedules_due", schedules.c.next_fire_at)  # the cron step, and the leader's tick

leader = Table(  # one row; the epoch is its key, so that a takeover waits for claims that hold it FOR KEY SHARE
    "leader",
    metadata,
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("holder", Uuid),
    Column("expires_at", _moment, nullable=False),
    Column("limits", BigInteger, nullable=False, server_default="0"),  # raised by every change of them
)
