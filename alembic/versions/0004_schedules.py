"""Schedules: what is published by the clock."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE schedules (
            name text PRIMARY KEY,
            source text NOT NULL,
            kind text NOT NULL,
            queue text,
            cron text NOT NULL,
            timezone text NOT NULL,
            missed text NOT NULL,
            payload bytea NOT NULL,
            priority smallint NOT NULL DEFAULT 0,
            expires_in double precision,
            created_at timestamptz NOT NULL DEFAULT now(),
            declared_at timestamptz,
            retired_at timestamptz,
            paused boolean NOT NULL DEFAULT false,
            next_fire_at timestamptz,
            last_fire_at timestamptz,
            last_task uuid,
            CONSTRAINT schedules_source CHECK (source IN ('api', 'code')),
            CONSTRAINT schedules_missed CHECK (missed IN ('skip', 'run_once', 'run_all'))
        )
        """
    )
    op.execute("CREATE INDEX schedules_due ON schedules (next_fire_at)")


def downgrade() -> None:
    op.execute("DROP TABLE schedules")
