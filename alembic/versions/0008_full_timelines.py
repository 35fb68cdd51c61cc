"""What a full timeline needs: when each ended release was due and was made, and when a cancel was asked for."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE attempts ADD COLUMN due_at timestamptz, ADD COLUMN queued_at timestamptz")
    for table in ("tasks", "task_history"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN cancel_requested_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE attempts DROP COLUMN due_at, DROP COLUMN queued_at")
    for table in ("tasks", "task_history"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN cancel_requested_at")
