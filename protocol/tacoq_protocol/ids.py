"""Task ids: UUIDv7 (RFC 9562 §5.7), made by the publisher, so that a resend is recognised.

Ids made in one process grow strictly, so that tasks published together keep their order inside a batch; between
processes only the millisecond counts, and the manager never orders by it.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

MAX_AHEAD = timedelta(days=1)
_MAX_AHEAD_SECONDS = MAX_AHEAD.total_seconds()
_RANDOM_BITS = 74
_STEP_BITS = 40  # a random step below 2**40 keeps ids of one millisecond unguessable enough and leaves room for 2**34

_VERSION_BITS = 0xF << 76 | 0b11 << 62  # and those of the variant
_VERSION_7 = 0x7 << 76 | 0b10 << 62

_DRAW = 256  # ids for which the system is asked for random bytes at a time

_lock = threading.Lock()
_last_ms = 0
_last_tail = 0
_drawn: list[int] = []  # random numbers to come


def _forget_after_fork() -> None:
    """Else parent and child make the same ids; and the lock may be held by a thread that is not in the child."""
    global _lock
    _lock = threading.Lock()
    _drawn.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def new_task_id() -> UUID:
    """Return a UUIDv7 greater than every one this process made before."""
    global _last_ms, _last_tail
    with _lock:
        if not _drawn:
            random = os.urandom(10 * _DRAW)
            _drawn.extend(
                int.from_bytes(random[at : at + 10]) >> (80 - _RANDOM_BITS) for at in range(0, len(random), 10)
            )
        fresh = _drawn.pop()
        now = time.time_ns() // 1_000_000
        if now > _last_ms:
            _last_ms, _last_tail = now, fresh >> 1  # top bit clear: room to count up
        else:  # same millisecond, or a clock that went back
            _last_tail += 1 + (fresh & ((1 << _STEP_BITS) - 1))
            if _last_tail >> _RANDOM_BITS:
                _last_ms, _last_tail = _last_ms + 1, fresh >> 1
        ms, tail = _last_ms, _last_tail
    return _uuid7(ms, tail)


def task_id_from(moment: datetime, tail: bytes) -> UUID:
    """Return the UUIDv7 of `moment` with these 10 bytes (74 bits of them) in the place of the random ones."""
    return _uuid7(int(moment.timestamp() * 1000), int.from_bytes(tail) >> (80 - _RANDOM_BITS))


def created_at(task_id: UUID) -> datetime:
    """Return the creation time inside a UUIDv7, in UTC, to the millisecond."""
    return datetime.fromtimestamp((task_id.int >> 80) / 1000, UTC)


def id_problem(task_id: UUID, now: datetime) -> str | None:
    """Say why `task_id` cannot be a task id at `now`, or None when it can.

    History is partitioned by the day inside the id: an id of another version, or of a far day, has no place there.
    """
    number = task_id.int
    if number & _VERSION_BITS != _VERSION_7:
        return f"{task_id} is not a UUIDv7: make task ids with tacoq_protocol.ids.new_task_id()"
    if (number >> 80) / 1000 > now.timestamp() + _MAX_AHEAD_SECONDS:
        return f"{task_id} was made more than a day in the future: set the publisher's clock"
    return None


def first_id_of(moment: datetime) -> UUID:
    """Return the smallest UUIDv7-ordered value of `moment`'s millisecond: the bound of a partition or a filter."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def _uuid7(ms: int, tail: int) -> UUID:
    high, low = tail >> 62, tail & ((1 << 62) - 1)
    return UUID(int=ms << 80 | high << 64 | low | _VERSION_7)
