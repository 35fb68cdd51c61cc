"""Indexes of the tasks that are retries, by what they retry: a retry of many leaves out what is retried already."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("tasks", "task_history"):
        op.execute(f"CREATE INDEX {table}_retry_of ON {table} (retry_of) WHERE retry_of IS NOT NULL")


def downgrade() -> None:
    for table in ("tasks", "task_history"):
        op.execute(f"DROP INDEX {table}_retry_of")
