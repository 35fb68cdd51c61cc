"""An index of the tasks that are poison when they crash once more: a claim lets one of them run at a time."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX tasks_last_chance ON tasks (queue) WHERE crashes >= 2")


def downgrade() -> None:
    op.execute("DROP INDEX tasks_last_chance")
