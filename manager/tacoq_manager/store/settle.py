"""Settle: transitions in, one statement and one transaction, the moves that took place out (all others were stale)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Raw

from tacoq_manager.store.claim import Line
from tacoq_manager.store.columns import sparse
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.store.tasks import view_of
from tacoq_manager.transitions import MAX_CRASHES, Transition
from tacoq_protocol.http import TaskView
from tacoq_protocol.states import RELEASED, TaskState

# A transition's states and flags travel as one number: each element of each array costs.
_BIT: Final = {TaskState.SCHEDULED: 1, TaskState.PENDING: 2, TaskState.QUEUED: 4, TaskState.RUNNING: 8}
_CLOSES: Final = 16
_COSTS_ATTEMPT: Final = 32
_CRASH: Final = 64
_LOSES: Final = 128
_REQUEST_CANCEL: Final = 256
_AWAITED: Final = 512  # somebody waits for it: a completed task is to be told as it stands

# Rows are locked in id order, whatever order the reports came in: two settles cannot deadlock. The lock is taken inside
# a lateral subquery and final rows are deleted by an array of ids: both can only be nested loops over the primary key,
# however the planner's statistics look. `r` holds each row as it was when it got the lock.
_APPLY: Final = f"""
WITH r AS MATERIALIZED (
    SELECT u.*, t.*,
        CASE
            -- Its release is open: a message or a run of it may be about, so it counts as released once more.
            WHEN u.request_cancel AND t.was = 'pending' AND t.queued_at IS NOT NULL THEN 'queued'
            WHEN u.to_state IN ('completed', 'failed', 'cancelled', 'expired') THEN u.to_state
            WHEN t.cancel_requested AND u.to_state IN ('scheduled', 'pending') THEN 'cancelled'
            WHEN u.costs_attempt AND t.attempt + t.cost >= coalesce(t.max_attempts, u.attempt_limit) THEN 'failed'
            WHEN u.crash AND t.crashes + 1 >= $13 THEN 'failed'
            ELSE coalesce(u.to_state, t.was)
        END AS state,
        u.crash AND t.crashes + 1 >= $13 AND NOT t.cancel_requested AS poison
    FROM (
        SELECT given.*, marks & {_CLOSES} <> 0 AS closes, marks & {_COSTS_ATTEMPT} <> 0 AS costs_attempt,
            marks & {_CRASH} <> 0 AS crash, marks & {_LOSES} <> 0 AS loses,
            marks & {_REQUEST_CANCEL} <> 0 AS request_cancel, marks & {_AWAITED} <> 0 AS awaited
        FROM unnest(
            $1::uuid[], $2::int[], $3::int[], $4::text[], $5::int[], $6::float8[], $7::uuid[], $8::timestamptz[],
            $9::float8[], $10::text[], $11::bytea[], $12::text[]
        ) WITH ORDINALITY AS given (
            task_id, at_release, marks, to_state, attempt_limit, delay, by_session, began_at, seconds, outcome,
            result, error, place
        )
    ) AS u
    CROSS JOIN LATERAL (
        SELECT id, seq, kind, queue, fairness_key, priority, tasks.state AS was, release, attempt, crashes,
            max_attempts, timeout, created_at, run_at, expires_at, queued_at, started_at, session, cancel_requested,
            cancel_requested_at, announced, retry_of, unique_key, traceparent, tracestate, fingerprint, payload,
            -- A run that was counted when it was lost is not counted again when its late report comes.
            CASE WHEN u.costs_attempt AND NOT (tasks.state IN ('pending', 'queued') AND started_at IS NOT NULL)
                THEN 1 ELSE 0 END AS cost
        FROM tasks
        WHERE id = u.task_id
          AND (u.at_release IS NULL OR release = u.at_release)
          AND u.marks & (CASE tasks.state
                WHEN 'scheduled' THEN 1 WHEN 'pending' THEN 2 WHEN 'queued' THEN 4 ELSE 8 END) <> 0
        FOR UPDATE OFFSET 0
    ) AS t
),
moved_out AS (
    DELETE FROM tasks WHERE id = ANY (ARRAY(
        SELECT id FROM r WHERE state IN ('completed', 'failed', 'cancelled', 'expired')
    ))
),
history AS (
    INSERT INTO task_history (
        id, seq, kind, queue, fairness_key, priority, state, release, attempt, crashes, max_attempts, timeout,
        created_at, run_at, expires_at, queued_at, started_at, session, cancel_requested, cancel_requested_at,
        announced, retry_of, unique_key, traceparent, tracestate, fingerprint, payload, finished_at, result, error
    )
    SELECT id, seq, kind, queue, fairness_key, priority, state, release, attempt + cost,
        crashes + crash::int, max_attempts, timeout, created_at, run_at, expires_at, queued_at,
        coalesce(began_at, started_at), coalesce(by_session, session), cancel_requested, cancel_requested_at,
        announced, retry_of, unique_key, traceparent, tracestate, fingerprint, payload, now(),
        CASE WHEN state = 'completed' THEN result END,
        CASE
            WHEN state = 'completed' THEN NULL
            WHEN state = 'cancelled' AND to_state IS DISTINCT FROM 'cancelled'
                THEN '{{"type":"Cancelled","message":"cancelled on request"}}'::json
            WHEN poison THEN json_build_object('type', 'Poison', 'message', format(
                'it ran in %s worker sessions when they died: %s; the last: %s', crashes + 1,
                (SELECT string_agg(died::text, ', ') FROM (
                    SELECT session AS died FROM attempts WHERE task_id = r.id AND outcome = 'crashed'
                    UNION ALL SELECT by_session
                ) AS a), error::json ->> 'message'))
            ELSE error::json
        END
    FROM r WHERE state IN ('completed', 'failed', 'cancelled', 'expired')
),
moved AS (
    UPDATE tasks SET
        state = r.state,
        release = tasks.release + r.closes::int,
        attempt = tasks.attempt + r.cost,
        crashes = tasks.crashes + r.crash::int,
        run_at = CASE WHEN r.state = 'scheduled' THEN now() + make_interval(secs => r.delay) ELSE tasks.run_at END,
        queued_at = CASE WHEN r.closes THEN NULL ELSE tasks.queued_at END,
        session = CASE WHEN r.closes THEN NULL ELSE coalesce(r.by_session, tasks.session) END,
        started_at = CASE WHEN r.closes THEN NULL ELSE coalesce(r.began_at, tasks.started_at) END,
        cancel_requested = tasks.cancel_requested OR r.request_cancel,
        cancel_requested_at = coalesce(tasks.cancel_requested_at, CASE WHEN r.request_cancel THEN now() END),
        announced = CASE WHEN r.closes AND outcome <> 'returned' THEN false ELSE tasks.announced OR r.loses END
    FROM r
    WHERE tasks.id = r.id AND r.state NOT IN ('completed', 'failed', 'cancelled', 'expired')
),
ended AS (
    INSERT INTO attempts (
        task_id, release, attempt, outcome, session, started_at, ended_at, seconds, error, due_at, queued_at
    )
    SELECT id, release, attempt + cost, outcome, coalesce(by_session, session), coalesce(began_at, started_at), now(),
        seconds, error::json, run_at, queued_at
    FROM r
    WHERE outcome IS NOT NULL AND NOT (outcome = 'completed' AND attempt = 0)
    ON CONFLICT (task_id, release) DO UPDATE SET  -- a late report knows better than 'lost'
        attempt = excluded.attempt, outcome = excluded.outcome, session = excluded.session,
        started_at = excluded.started_at, ended_at = excluded.ended_at, seconds = excluded.seconds, error =
        excluded.error
)
SELECT r.place, r.was, r.state, r.queue, r.kind, r.fairness_key, r.priority, r.crashes >= $13 - 1 AS last_chance,
    CASE WHEN r.state = 'scheduled' THEN now() + make_interval(secs => r.delay) ELSE r.run_at END AS run_at,
    (SELECT pg_current_xact_id()::text::int8) AS transaction, view.*
FROM r
LEFT JOIN LATERAL (
    -- As it stands in the history now, in the order of `view_of`; the result is at hand.
    SELECT r.id, r.kind, r.queue, r.state, r.priority, r.fairness_key, r.attempt, r.release, r.created_at, r.run_at,
        r.max_attempts, r.timeout, r.expires_at, r.queued_at, coalesce(r.began_at, r.started_at),
        coalesce(r.by_session, r.session), r.cancel_requested, r.retry_of, NULL::bytea, now(), NULL::bytea, NULL::text
) AS view ON r.awaited AND r.state = 'completed'
"""


class Applied(NamedTuple):
    """A move that took place and is committed, by `transaction`. `was` and `state` are before and after.

    `run_at` is when it is due.
    """

    transition: Transition
    was: TaskState
    state: TaskState
    queue: str
    kind: str
    fairness_key: str
    priority: int
    last_chance: bool  # as it was before: one at a time of these is released
    run_at: datetime
    transaction: int
    view: TaskView | None  # of one that is completed and was awaited

    @property
    def frees_slot(self) -> bool:
        return self.was in RELEASED and self.state not in RELEASED

    @property
    def takes_slot(self) -> bool:
        """Without a claim: a cancel was asked for, and its last release may be about."""
        return self.was not in RELEASED and self.state in RELEASED

    @property
    def line(self) -> Line:
        return Line(self.queue, self.kind, self.fairness_key)


_encode = msgspec.json.Encoder().encode


async def apply(
    connection: HotConnection,
    transitions: Sequence[Transition],
    is_awaited: Callable[[UUID], bool] = lambda _: False,
    kept: bool = False,
) -> list[Applied]:
    """Apply `transitions` in one transaction; committed when it returns. With a view of what completes and is awaited.

    `kept`: their results are kept elsewhere already.

    At most one transition of a task may match (one per release, or from disjoint states). Those not returned were
    stale: the release is closed or not the latest, or the state does not allow the move. Raises DatabaseUnavailable
    (the commit may have happened: apply them again, they are then stale), or asyncpg's error when a value is refused.
    """
    rows = sorted(transitions, key=lambda transition: transition.task_id.int)
    records = await connection.fetch(
        _APPLY,
        [t.task_id for t in rows],
        sparse([t.release for t in rows]),
        [_marks(t) | (_AWAITED if is_awaited(t.task_id) else 0) for t in rows],
        sparse([t.to for t in rows]),
        sparse([t.attempt_limit for t in rows]),
        sparse([t.delay for t in rows]),
        sparse([t.session for t in rows]),
        sparse([t.started_at for t in rows]),
        sparse([t.seconds for t in rows]),
        sparse([t.outcome for t in rows]),
        None if kept else sparse([t.result for t in rows]),
        sparse([None if t.error is None else _encode(t.error).decode() for t in rows]),
        MAX_CRASHES,
    )
    return [_applied(rows[record[0] - 1], record) for record in records]


_STATE: Final = {state.value: state for state in TaskState}
_MASKS: dict[frozenset[TaskState], int] = {}


def _applied(transition: Transition, record: asyncpg.Record) -> Applied:
    _, was, state, queue, kind, key, priority, last, run_at, by, *row = record
    view = None
    if row[0] is not None:
        view = view_of(row)
        view.result = UNSET if transition.result is None else Raw(transition.result)
    return Applied(transition, _STATE[was], _STATE[state], queue, kind, key, priority, last, run_at, by, view)


def _mask(states: frozenset[TaskState]) -> int:
    mask = _MASKS.get(states)
    if mask is None:
        mask = _MASKS[states] = sum(_BIT[state] for state in states)
    return mask


def _marks(transition: Transition) -> int:
    marks = _mask(transition.from_states)
    if transition.closes:
        marks |= _CLOSES
    if transition.costs_attempt:
        marks |= _COSTS_ATTEMPT
    if transition.crash:
        marks |= _CRASH
    if transition.move == "lose":
        marks |= _LOSES
    if transition.request_cancel:
        marks |= _REQUEST_CANCEL
    return marks
