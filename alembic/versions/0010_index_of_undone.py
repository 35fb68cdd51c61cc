"""What failed, was cancelled or expired is found without reading all that went well."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX task_history_undone ON task_history (id) WHERE state <> 'completed'")


def downgrade() -> None:
    op.execute("DROP INDEX task_history_undone")
