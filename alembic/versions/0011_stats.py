"""How many tasks ended, by the minute: for people who look at the last hours."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE task_stats (
            minute timestamptz NOT NULL,
            queue text NOT NULL,
            kind text NOT NULL,
            manager uuid NOT NULL,
            completed integer NOT NULL,
            failed integer NOT NULL,
            cancelled integer NOT NULL,
            expired integer NOT NULL,
            retried integer NOT NULL,
            runs integer NOT NULL,
            run_seconds double precision NOT NULL,
            PRIMARY KEY (minute, queue, kind, manager)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE task_stats")
