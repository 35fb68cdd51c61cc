"""A queue's row is what is set for it; nobody reads when it was made."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE queues DROP COLUMN created_at")


def downgrade() -> None:
    op.execute("ALTER TABLE queues ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()")
