"""Limits: what is set at run time, the tokens that are left of rates, and what handlers hold back."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE queues ADD COLUMN paused boolean NOT NULL DEFAULT false, ADD COLUMN limits json")
    op.execute("ALTER TABLE kinds ADD COLUMN limits json")
    op.execute("ALTER TABLE leader ADD COLUMN limits bigint NOT NULL DEFAULT 0")
    op.execute(
        """
        CREATE TABLE buckets (
            queue text NOT NULL,
            kind text,
            fairness_key text,
            tokens double precision NOT NULL,
            as_of timestamptz NOT NULL,
            rate double precision NOT NULL
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX buckets_of ON buckets (queue, kind, fairness_key) NULLS NOT DISTINCT")
    op.execute(
        """
        CREATE TABLE holds (
            queue text NOT NULL,
            kind text NOT NULL,
            fairness_key text,
            until timestamptz NOT NULL
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX holds_of ON holds (queue, kind, fairness_key) NULLS NOT DISTINCT")


def downgrade() -> None:
    op.execute("DROP TABLE holds")
    op.execute("DROP TABLE buckets")
    op.execute("ALTER TABLE leader DROP COLUMN limits")
    op.execute("ALTER TABLE kinds DROP COLUMN limits")
    op.execute("ALTER TABLE queues DROP COLUMN limits, DROP COLUMN paused")
