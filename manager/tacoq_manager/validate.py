"""Validate: a task as it is asked for in, what is wrong with it, and what tells it from another, out."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import msgspec

from tacoq_manager.keys import has_keys
from tacoq_protocol.http import MAX_PAYLOAD_BYTES, NewTask
from tacoq_protocol.ids import id_problem

_encode = msgspec.msgpack.Encoder().encode


def task_problem(task: NewTask, payload: bytes, now: datetime) -> str | None:
    """Say why a task cannot be accepted as it is, or None when it can."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        return (
            f"the payload of task {task.id} has {len(payload):,} bytes, the limit is {MAX_PAYLOAD_BYTES:,}: "
            "store the data elsewhere and send a reference"
        )
    return _times_problem(task, now) or id_problem(task.id, now)


def _times_problem(task: NewTask, now: datetime) -> str | None:
    if task.delay is None and task.run_at is None and task.expires_in is None and task.expires_at is None:
        return None
    if task.delay is not None and task.run_at is not None:
        return f"task {task.id} has a delay and a run_at: give one of them"
    if task.expires_in is not None and task.expires_at is not None:
        return f"task {task.id} has expires_in and expires_at: give one of them"
    if not (_has_utc(task.run_at) and _has_utc(task.expires_at)):
        return f"task {task.id} has a run_at or expires_at that is outside the years 1 to 9999 in UTC"
    due = task.run_at or now + timedelta(seconds=task.delay or 0.0)
    deadline = task.expires_at or (None if task.expires_in is None else now + timedelta(seconds=task.expires_in))
    if deadline is not None and task.run_at is not None and deadline <= due:
        return f"task {task.id} would expire before it is due: its deadline is {deadline}, its run_at {due}"
    return None


def _has_utc(moment: datetime | None) -> bool:
    try:
        return moment is None or moment.astimezone(UTC) is not None
    except OverflowError:
        return False


def fingerprint(task: NewTask, payload: bytes) -> bytes:
    """Return 16 bytes that tell what was asked for, to the letter; the trace it was asked in does not count."""
    asked: tuple[object, ...] = (
        task.kind,
        task.queue,
        task.priority,
        task.fairness_key,
        task.delay,
        task.run_at,
        task.expires_in,
        task.expires_at,
        task.max_attempts,
        task.timeout,
        payload,
    )
    if has_keys(task):
        asked += (task.idempotency_key, task.idempotency_window, task.unique, task.on_conflict)
    return hashlib.blake2b(_encode(asked), digest_size=16).digest()
