"""Keys: a task as it is asked for in; what it is compared by, or what is wrong with that, out."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Final

from tacoq_manager.store.keyed import Keys
from tacoq_protocol.http import IDEMPOTENCY_WINDOW_SECONDS, NewTask

_BYTES: Final = 16


class KeyProblem(ValueError):
    """Why a task cannot be compared as it asks."""


def has_keys(task: NewTask) -> bool:
    """True when the task asks to be compared with others; all that follows is for such tasks alone."""
    return (
        task.unique is not False
        or task.idempotency_key is not None
        or task.idempotency_window is not None
        or task.on_conflict != "return"
    )


def keys_of(task: NewTask, payload: bytes, *, retention: timedelta) -> Keys:
    """Return the keys of a task. Raises KeyProblem.

    Values are compared as JSON: neither the order of an object's fields counts, nor how a number is written.
    """
    if task.on_conflict != "return" and task.unique is False:
        raise KeyProblem(f"on_conflict is {task.on_conflict!r} and nothing is unique: give `unique`, too")
    if task.idempotency_key is None:
        if task.idempotency_window is not None:
            raise KeyProblem("idempotency_window is given without an idempotency_key: give both, or none")
        return Keys(unique=_unique_key(task, payload), on_conflict=task.on_conflict)
    window = task.idempotency_window or IDEMPOTENCY_WINDOW_SECONDS
    if window > retention.total_seconds():
        raise KeyProblem(
            f"idempotency_window is {window:,.0f} s, but tasks are kept for {retention.total_seconds():,.0f} s after "
            "their end: give a shorter one, or set TACOQ_RETENTION"
        )
    return Keys(
        _unique_key(task, payload),
        task.on_conflict,
        task.idempotency_key,
        window,
        hashlib.blake2b(payload, digest_size=_BYTES).digest(),
    )


def _unique_key(task: NewTask, payload: bytes) -> bytes | None:
    if task.unique is False:
        return None
    try:
        value = json.loads(payload, parse_float=_number)
        compared = value if task.unique is True else _picked(value, task.unique)
        # As a list, `true` and a list of fields cannot be taken for each other.
        text = json.dumps([task.kind, task.unique is True, compared], sort_keys=True)
    except KeyProblem:
        raise
    except RecursionError:
        raise KeyProblem("unique: the payload is nested too deep to be compared") from None
    except ValueError as error:  # a number of thousands of digits
        raise KeyProblem(f"unique: the payload cannot be compared: {error}") from None
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).digest()


def _picked(payload: object, fields: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(payload, dict):
        raise KeyProblem("unique names fields, and the payload is no object: say true, for all of it")
    missing = [field for field in fields if field not in payload]
    if missing:
        there = ", ".join(repr(field) for field in list(payload)[:20]) or "none"
        raise KeyProblem(f"unique: the payload has no field {missing[0]!r}; its fields: {there}")
    return {field: payload[field] for field in fields}


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number
