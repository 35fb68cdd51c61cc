"""Invariants: what holds of the rows at every commit, a statement each; the rows that break it out.

A statement sees one moment. All return `subject` and `detail`, in the order of the subjects, MOST at most. Live tasks
are read whole; the history by ids that are not older than `since`, and otherwise by its keys alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from enum import Enum, auto
from typing import Final, NamedTuple

import msgspec

from tacoq_manager.store import vitals
from tacoq_manager.store.history import ENDED_AT, MOST_STRAYS, partition_name
from tacoq_manager.store.reading import Reader
from tacoq_manager.store.schema import PARTITIONED
from tacoq_manager.transitions import MAX_CRASHES
from tacoq_protocol.ids import first_id_of

MOST: Final = 1_000
NEWEST_KEYS: Final = 100_000  # each costs two probes
LATE_SECONDS: Final = 30.0  # after a lease of 10 s, and a rescue every 2 s

_LEADS: Final = "EXISTS (SELECT FROM leader WHERE holder IS NOT NULL AND expires_at > clock_timestamp())"


class Reads(Enum):
    """What a statement is given as its only argument."""

    NOTHING = auto()
    SINCE = auto()  # the first id of a moment


class Invariant(NamedTuple):
    """`holds` says it. `settles_in`: a row may break it for so many seconds while the system is at work on it."""

    name: str
    holds: str
    statement: str
    reads: Reads = Reads.NOTHING
    settles_in: float = 0.0


class Row(msgspec.Struct, frozen=True):
    """One that breaks an invariant, and how."""

    subject: str
    detail: str


# The subquery is run for each live task: a probe of one partition, whatever the statistics say.
_ONE_PLACE: Final = """
SELECT t.id::text AS subject, t.state || ' and ' || h.state AS detail
FROM tasks AS t
CROSS JOIN LATERAL (SELECT state FROM task_history WHERE id = t.id OFFSET 0) AS h
"""

# A late report may have changed how a lost run ended; the run stays on record, for as long as it is kept.
_RUNS_ON_RECORD: Final = "(SELECT count(*) FROM attempts WHERE task_id = {of}.id)"

_LIVE: Final = f"""
SELECT id::text AS subject, detail FROM (
    SELECT id, CASE
        WHEN state NOT IN ('scheduled', 'pending', 'queued', 'running') THEN 'it is ' || state
        WHEN release < 0 OR attempt < 0 OR crashes < 0 THEN 'a number is below 0'
        WHEN state IN ('scheduled', 'pending') AND cancel_requested THEN state || ', and it is to be cancelled'
        WHEN state = 'scheduled' AND (queued_at IS NOT NULL OR session IS NOT NULL OR started_at IS NOT NULL)
            THEN 'scheduled, with an open release'
        WHEN queued_at IS NULL AND (session IS NOT NULL OR started_at IS NOT NULL)
            THEN state || ', with a run of no release'
        WHEN state IN ('queued', 'running') AND queued_at IS NULL THEN state || ', and was never released'
        WHEN queued_at IS NOT NULL AND release < 1 THEN state || ', with a release that has no number'
        WHEN state = 'queued' AND NOT cancel_requested AND (session IS NOT NULL OR started_at IS NOT NULL)
            THEN 'queued, with a run of an earlier release'
        WHEN state = 'running' AND (session IS NULL OR started_at IS NULL) THEN 'running in no session'
        WHEN cancel_requested_at IS NOT NULL AND NOT cancel_requested THEN 'a cancel was asked for and forgotten'
        WHEN attempt >= max_attempts THEN format('%s of %s attempts are used up', attempt, max_attempts)
        WHEN crashes >= {MAX_CRASHES} THEN format('it crashed %s times', crashes)
        WHEN crashes > attempt THEN format('it crashed %s times in %s attempts', crashes, attempt)
        WHEN attempt > 0 AND id >= $1 AND attempt > {_RUNS_ON_RECORD.format(of="tasks")}
            THEN format('%s attempts, and fewer runs on record', attempt)
    END AS detail
    FROM tasks
) AS found
WHERE detail IS NOT NULL
"""

_FINAL: Final = f"""
SELECT id::text AS subject, detail FROM (
    SELECT id, CASE
        WHEN state NOT IN ('completed', 'failed', 'cancelled', 'expired') THEN 'it is ' || state
        WHEN release < 0 OR attempt < 0 OR crashes < 0 THEN 'a number is below 0'
        WHEN state IN ('completed', 'failed') AND release < 1 THEN state || ', and was never released'
        WHEN state = 'completed' AND (session IS NULL OR started_at IS NULL) THEN 'completed in no session'
        WHEN state = 'completed' AND error IS NOT NULL THEN 'completed, with an error'
        WHEN state <> 'completed' AND error IS NULL THEN state || ', without an error'
        WHEN state <> 'completed' AND result IS NOT NULL THEN state || ', with a result'
        WHEN crashes > attempt THEN format('it crashed %s times in %s attempts', crashes, attempt)
        WHEN attempt > 0 AND attempt > {_RUNS_ON_RECORD.format(of="task_history")}
            THEN format('%s attempts, and fewer runs on record', attempt)
    END AS detail
    FROM task_history WHERE id >= $1
) AS found
WHERE detail IS NOT NULL
"""

# The run that ended a task is that of its history's release.
_ONE_OUTCOME: Final = """
SELECT task_id::text || ' release ' || release AS subject, detail FROM (
    SELECT a.task_id, a.release, CASE
        WHEN t.id IS NULL AND h.id IS NULL THEN 'there is no such task'
        WHEN a.release > coalesce(h.release, t.release) THEN 'it ended after the last release'
        WHEN a.outcome = 'completed' AND h.id IS NULL THEN 'it completed, and the task is ' || t.state
        WHEN a.outcome = 'completed' AND (h.state <> 'completed' OR h.release <> a.release)
            THEN format('it completed, and the task is %s by release %s', h.state, h.release)
    END AS detail
    FROM attempts AS a
    LEFT JOIN LATERAL (SELECT id, state, release FROM tasks WHERE id = a.task_id OFFSET 0) AS t ON true
    LEFT JOIN LATERAL (SELECT id, state, release FROM task_history WHERE id = a.task_id OFFSET 0) AS h ON true
    WHERE a.task_id >= $1
) AS found
WHERE detail IS NOT NULL
"""

# A key is known for no longer than its task is kept; but how long that is goes by the task's id, which may be old.
_KEYS: Final = f"""
SELECT subject, 'its task ' || task_id || ' is nowhere' AS detail FROM (
    (SELECT 'key ' || quote_literal(key) || ' of ' || quote_literal(kind) AS subject, task_id
     FROM idempotency WHERE expires_at > now() ORDER BY expires_at DESC LIMIT {NEWEST_KEYS})
    UNION ALL
    (SELECT 'publish ' || id AS subject, task_id
     FROM absorbed WHERE expires_at > now() ORDER BY expires_at DESC LIMIT {NEWEST_KEYS})
) AS known
WHERE task_id >= $1
  AND NOT EXISTS (SELECT FROM tasks WHERE id = task_id)
  AND NOT EXISTS (SELECT FROM task_history WHERE id = task_id)
"""

_HELD: Final = f"""
SELECT t.id::text AS subject,
    format('running in session %s, which is %s', t.session, coalesce(w.state || ' since ' || w.ended_at, 'unknown'))
        AS detail
FROM tasks AS t LEFT JOIN workers AS w ON w.session = t.session
WHERE t.state = 'running' AND t.queued_at < now() - make_interval(secs => {LATE_SECONDS})
  AND (w.session IS NULL OR w.state <> 'live' AND w.ended_at < now() - make_interval(secs => {LATE_SECONDS}))
  AND {_LEADS}
UNION ALL
SELECT t.id::text, format('queued since %s, and %s has no live worker', t.queued_at, t.queue)
FROM tasks AS t
WHERE t.state = 'queued' AND t.queued_at < now() - make_interval(secs => {LATE_SECONDS})
  AND NOT EXISTS (
      SELECT FROM workers AS w WHERE w.queue = t.queue
        AND (w.state = 'live' OR w.ended_at > now() - make_interval(secs => {LATE_SECONDS}))
  )
  AND {_LEADS}
"""

_ON_TIME: Final = f"""
SELECT id::text AS subject, 'scheduled, and due since ' || run_at AS detail
FROM tasks WHERE state = 'scheduled' AND run_at < now() - make_interval(secs => {LATE_SECONDS}) AND {_LEADS}
UNION ALL
SELECT id::text, state || ', and its deadline was ' || expires_at
FROM tasks
WHERE expires_at IS NOT NULL AND state IN ('scheduled', 'pending')
  AND expires_at < now() - make_interval(secs => {LATE_SECONDS}) AND {_LEADS}
UNION ALL
SELECT 'schedule ' || name, 'it should have fired at ' || next_fire_at
FROM schedules WHERE next_fire_at < now() - make_interval(secs => {LATE_SECONDS}) AND {_LEADS}
"""

# A draw takes whole tokens of those that are there; sums of parts are not exact.
_TOKENS: Final = f"""
SELECT concat_ws(' ', queue, kind, fairness_key) AS subject,
    format('%s tokens, %s a second, as of %s', tokens, rate, as_of) AS detail
FROM buckets
WHERE NOT rate > 0 OR NOT tokens <= greatest(1, rate) + 0.001 OR NOT tokens >= -1
   OR as_of > now() + make_interval(secs => {LATE_SECONDS})
"""

_ONE_LEADER: Final = """
SELECT 'leader' AS subject, count(*) || ' rows' AS detail FROM leader HAVING count(*) <> 1
"""

INVARIANTS: Final = (
    Invariant("one place", "no task is live and in the history at once", _ONE_PLACE),
    Invariant("live tasks", "the columns of a live task fit its state, and its counts its limits", _LIVE, Reads.SINCE),
    Invariant("final tasks", "the columns of a final task fit its state", _FINAL, Reads.SINCE),
    Invariant("one outcome", "runs on record are of a task, and one ended it at most", _ONE_OUTCOME, Reads.SINCE),
    Invariant("keys", "what a key or an absorbed publish stands for is there", _KEYS, Reads.SINCE),
    Invariant("held", "what is released is held by a session that lives", _HELD, settles_in=15.0),
    Invariant("on time", "what is due has gone on, while a manager leads", _ON_TIME, settles_in=15.0),
    Invariant("tokens", "rates have as many tokens as can be", _TOKENS),
    Invariant("one leader", "the leader has one row", _ONE_LEADER),
)


_ENDED_LATE: Final = "SELECT count(*) AS late FROM (SELECT FROM {name} WHERE {column} >= $1 LIMIT {most}) AS found"


async def broken(reader: Reader, invariant: Invariant, since: datetime) -> list[Row]:
    """Return the rows that break it now, MOST at most. Raises DatabaseUnavailable."""
    statement = f"SELECT * FROM ({invariant.statement}) AS broken ORDER BY subject LIMIT {MOST}"
    arguments = [first_id_of(since)] if invariant.reads is Reads.SINCE else []
    return [Row(*row) for row in await reader.fetch(statement, *arguments)]


async def overdue_partitions(reader: Reader, before: datetime, older_than: datetime) -> list[Row]:
    """Return the partitions of days that were over `before`, and that nothing keeps.

    One is kept while too many of its tasks ended after `older_than` to move them; to count these it is read.
    """
    lead = await vitals.lead(reader)
    if lead is None or lead.holder is None or lead.seconds_left <= 0:
        return []  # nobody is there to drop them
    rows: list[Row] = []
    for table in PARTITIONED:
        for day in sorted(await vitals.partitions(reader, table)):
            if datetime.combine(day + timedelta(days=1), time(), UTC) > before:
                break
            name = partition_name(table, day)
            counted = _ENDED_LATE.format(name=name, column=ENDED_AT[table], most=MOST_STRAYS + 1)
            (row,) = await reader.fetch(counted, older_than)
            if row["late"] <= MOST_STRAYS:
                rows.append(Row(name, "all of it is past the retention, but for what moves to the default partition"))
    return rows
