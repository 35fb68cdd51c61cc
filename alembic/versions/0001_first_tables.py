"""First tables: live tasks, partitioned history, attempts, registry and the leader row."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TASK_COLUMNS = """
    kind text NOT NULL,
    queue text NOT NULL,
    fairness_key text NOT NULL DEFAULT '',
    priority smallint NOT NULL DEFAULT 0,
    state text NOT NULL,
    release integer NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    max_attempts integer,
    timeout double precision,
    created_at timestamptz NOT NULL DEFAULT now(),
    run_at timestamptz NOT NULL,
    expires_at timestamptz,
    queued_at timestamptz,
    started_at timestamptz,
    session uuid,
    cancel_requested boolean NOT NULL DEFAULT false,
    announced boolean NOT NULL DEFAULT false,
    retry_of uuid,
    traceparent text,
    tracestate text,
    fingerprint bytea NOT NULL,
    payload bytea NOT NULL
"""

# One statement each: asyncpg prepares what it runs.
_UP = [
    f"""
    CREATE TABLE tasks (
        id uuid PRIMARY KEY,
        seq bigint GENERATED ALWAYS AS IDENTITY,
        {_TASK_COLUMNS},
        queue_given boolean NOT NULL DEFAULT true,
        CONSTRAINT tasks_state_is_live CHECK (state IN ('scheduled', 'pending', 'queued', 'running'))
    ) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)
    """,  # every task is inserted, updated and deleted once: vacuum must keep up
    """
    CREATE INDEX tasks_pending ON tasks (queue, kind, fairness_key, priority DESC, run_at, seq)
    WHERE state = 'pending'
    """,
    "CREATE INDEX tasks_scheduled ON tasks (run_at) WHERE state = 'scheduled'",
    "CREATE INDEX tasks_in_flight ON tasks (queue) WHERE state IN ('queued', 'running')",
    """
    CREATE INDEX tasks_expires ON tasks (expires_at)
    WHERE expires_at IS NOT NULL AND state IN ('scheduled', 'pending')
    """,
    f"""
    CREATE TABLE task_history (
        id uuid PRIMARY KEY,
        seq bigint NOT NULL,
        {_TASK_COLUMNS},
        finished_at timestamptz NOT NULL,
        result bytea,
        error json,
        CONSTRAINT task_history_state_is_final
            CHECK (state IN ('completed', 'failed', 'cancelled', 'expired'))
    ) PARTITION BY RANGE (id)
    """,
    "CREATE TABLE task_history_default PARTITION OF task_history DEFAULT",
    """
    CREATE TABLE attempts (
        task_id uuid,
        release integer,
        attempt integer NOT NULL,
        outcome text NOT NULL,
        session uuid,
        started_at timestamptz,
        ended_at timestamptz NOT NULL,
        seconds double precision,
        error json,
        PRIMARY KEY (task_id, release)
    ) PARTITION BY RANGE (task_id)
    """,
    "CREATE TABLE attempts_default PARTITION OF attempts DEFAULT",
    """
    CREATE TABLE workers (
        session uuid PRIMARY KEY,
        queue text NOT NULL,
        state text NOT NULL,
        host text NOT NULL,
        pid integer NOT NULL,
        slots integer NOT NULL,
        kinds json NOT NULL,
        version text NOT NULL,
        started_at timestamptz NOT NULL,
        ended_at timestamptz,
        detail text
    )
    """,
    """
    CREATE TABLE kinds (
        queue text,
        name text,
        spec json NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (queue, name)
    )
    """,
    """
    CREATE TABLE queues (
        name text PRIMARY KEY,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE TABLE leader (epoch bigint PRIMARY KEY, holder uuid, expires_at timestamptz NOT NULL)",
    "INSERT INTO leader VALUES (0, NULL, now())",
]


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for table in ("leader", "queues", "kinds", "workers", "attempts", "task_history", "tasks"):
        op.execute(f"DROP TABLE {table}")
