"""Keys of publishes: one task for an idempotency key, one live task for a unique key."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("tasks", "task_history"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN unique_key bytea")
    op.execute("CREATE UNIQUE INDEX tasks_unique ON tasks (unique_key) WHERE unique_key IS NOT NULL")
    op.execute(
        """
        CREATE TABLE idempotency (
            kind text,
            key text,
            task_id uuid NOT NULL,
            payload_digest bytea NOT NULL,
            expires_at timestamptz NOT NULL,
            PRIMARY KEY (kind, key)
        )
        """
    )
    op.execute("CREATE INDEX idempotency_expires ON idempotency (expires_at)")
    op.execute(
        """
        CREATE TABLE absorbed (
            id uuid PRIMARY KEY,
            task_id uuid NOT NULL,
            fingerprint bytea NOT NULL,
            expires_at timestamptz NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX absorbed_expires ON absorbed (expires_at)")


def downgrade() -> None:
    op.execute("DROP TABLE absorbed")
    op.execute("DROP TABLE idempotency")
    op.execute("DROP INDEX tasks_unique")
    for table in ("tasks", "task_history"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN unique_key")
