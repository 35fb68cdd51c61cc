"""A new task: a call with its options in, checked, a task with its JSON as it will be sent out.

Nothing here knows about HTTP or an event loop. What the manager would refuse is mostly refused here, with a
shorter way to the line that is wrong; what is checked nowhere else is that a payload is JSON at all: one that
is not would spoil the request it shares with others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypedDict, TypeVar, get_args
from uuid import UUID

import msgspec
from pydantic_core import PydanticSerializationError, to_json

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.durations import Duration, parse_duration
from tacoq_protocol.errors import ConfigurationError, InvalidTask
from tacoq_protocol.http import (
    FAIRNESS_KEY_PATTERN,
    IDEMPOTENCY_KEY_PATTERN,
    KIND_PATTERN,
    MAX_PAYLOAD_BYTES,
    MAX_UNIQUE_FIELDS,
    QUEUE_PATTERN,
    NewTask,
    OnConflict,
)
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.trace import Carried, current_trace

R = TypeVar("R")

_KIND: Final = re.compile(KIND_PATTERN)
_QUEUE: Final = re.compile(QUEUE_PATTERN)
_FAIRNESS_KEY: Final = re.compile(FAIRNESS_KEY_PATTERN)
_IDEMPOTENCY_KEY: Final = re.compile(IDEMPOTENCY_KEY_PATTERN)
_encoder: Final = msgspec.json.Encoder()
_json: Final = msgspec.json.Decoder(msgspec.Raw)


class TaskOptions(TypedDict, total=False):
    """Options that `publish` and `publish_many` share.

    `queue`: whose workers run it; left out, the queue whose workers know the kind, else "default".
    `priority`: 0 to 9, 9 first. `fairness_key`: whose task it is (a tenant's, say); keys take turns within kind
    and priority, so that one with many tasks does not hold up the others. `delay` counts from the accept,
    `run_at` (aware) is the moment itself: at most one of them. `expires`: a task not started by then ends as
    expired; a duration counts from the accept. `max_attempts` and `timeout` (of one run) go before the kind's own.

    `idempotency_key`: for `idempotency_window` (24 hours) every publish of the kind with it gets the handle of the
    first one's task, also when that has ended; the items of `publish_many` have it with their index, `import-7[0]`.
    `unique`: these fields of the payload (True: all of it) have one live task in a kind. `on_conflict`: a publish that
    meets it gets its handle ("return"), gives it the new payload and options while it waits ("replace"), or raises
    TaskExists ("reject").
    """

    queue: str | None
    priority: int
    fairness_key: str
    delay: Duration | None
    run_at: datetime | None
    expires: Duration | datetime | None
    max_attempts: int | None
    timeout: Duration | None
    idempotency_key: str | None
    idempotency_window: Duration | None
    unique: bool | Sequence[str]
    on_conflict: OnConflict


class NewTaskFields(TypedDict, total=False):
    """The fields of `NewTask` that options turn into."""

    queue: str | None
    priority: int
    fairness_key: str
    delay: float | None
    run_at: datetime | None
    expires_in: float | None
    expires_at: datetime | None
    max_attempts: int | None
    timeout: float | None
    idempotency_key: str
    idempotency_window: float
    unique: bool | tuple[str, ...]
    on_conflict: OnConflict


class Prepared(msgspec.Struct, Generic[R], frozen=True):
    """A task ready to be sent: the same `body` each time, so a resend is recognised by the manager."""

    id: UUID
    kind: str
    body: bytes
    decode: Callable[[bytes], R]


def publish_options(
    *,
    queue: str | None = None,
    priority: int = 0,
    fairness_key: str = "",
    delay: Duration | None = None,
    run_at: datetime | None = None,
    expires: Duration | datetime | None = None,
    max_attempts: int | None = None,
    timeout: Duration | None = None,
    idempotency_key: str | None = None,
    idempotency_window: Duration | None = None,
    unique: bool | Sequence[str] = False,
    on_conflict: OnConflict = "return",
    **unknown: object,
) -> NewTaskFields:
    """Check the options of a publish. Raises ConfigurationError, naming the option that is wrong, or unknown."""
    if unknown:
        known = ", ".join(TaskOptions.__annotations__)
        raise ConfigurationError(f"publish has no option {next(iter(unknown))!r}; its options: {known}")
    fields = NewTaskFields()
    if queue is not None:
        if not _matches(_QUEUE, queue):
            raise ConfigurationError(f"queue = {queue!r} is not a queue's name: up to 100 letters, digits and _ . -")
        fields["queue"] = queue
    if priority != 0:
        fields["priority"] = _whole(priority, name="priority", least=0, most=9)
    if fairness_key != "":
        if not _matches(_FAIRNESS_KEY, fairness_key):
            raise ConfigurationError(f"fairness_key = {fairness_key!r} is none: text of up to 200 printed characters")
        fields["fairness_key"] = fairness_key
    if delay is not None and run_at is not None:
        raise ConfigurationError(f"delay = {delay!r} and run_at = {run_at!r} exclude each other: give one of them")
    if delay is not None:
        fields["delay"] = parse_duration(delay, name="delay").total_seconds()
    if run_at is not None:
        fields["run_at"] = _aware(run_at, name="run_at")
    if isinstance(expires, datetime):
        fields["expires_at"] = _aware(expires, name="expires")
    elif expires is not None:
        fields["expires_in"] = _positive(expires, name="expires")
    if max_attempts is not None:
        fields["max_attempts"] = _whole(max_attempts, name="max_attempts", least=1, most=1_000)
    if timeout is not None:
        fields["timeout"] = _positive(timeout, name="timeout")
    _add_keys(fields, idempotency_key, idempotency_window, unique, on_conflict)
    return fields


def _add_keys(
    fields: NewTaskFields,
    idempotency_key: str | None,
    idempotency_window: Duration | None,
    unique: bool | Sequence[str],
    on_conflict: OnConflict,
) -> None:
    if idempotency_key is not None:
        if not _matches(_IDEMPOTENCY_KEY, idempotency_key):
            raise ConfigurationError(
                f"idempotency_key = {idempotency_key!r} is none: text of 1 to 255 printed characters"
            )
        fields["idempotency_key"] = idempotency_key
    if idempotency_window is not None:
        if idempotency_key is None:
            raise ConfigurationError("idempotency_window is given without an idempotency_key")
        fields["idempotency_window"] = _positive(idempotency_window, name="idempotency_window")
    if unique is not False:
        fields["unique"] = _fields(unique)
    if on_conflict not in get_args(OnConflict):
        raise ConfigurationError(f"on_conflict = {on_conflict!r} is none of {', '.join(get_args(OnConflict))}")
    if on_conflict != "return":
        if unique is False:
            raise ConfigurationError(f"on_conflict = {on_conflict!r} needs to know what is unique: give unique, too")
        fields["on_conflict"] = on_conflict


def _fields(unique: object) -> bool | tuple[str, ...]:
    if unique is True:
        return True
    if (
        not isinstance(unique, Sequence)
        or isinstance(unique, str)
        or not 1 <= len(unique) <= MAX_UNIQUE_FIELDS
        or not all(isinstance(name, str) and name for name in unique)
    ):
        raise ConfigurationError(
            f"unique = {unique!r} is neither True nor names of payload fields: give them as in ('doc', 'lang'), "
            f"at most {MAX_UNIQUE_FIELDS}"
        )
    return tuple(unique)


def prepare(
    call: TaskCall[R],
    fields: NewTaskFields,
    *,
    task_id: UUID | None = None,
    index: int | None = None,
    trace: Carried | None = None,
) -> Prepared[R]:
    """Make a task of `call`, with a fresh id unless one is given.

    The option `queue` goes before the call's, and `trace` before the current trace context.

    Raises InvalidTask, with the given `index`, when kind or payload cannot be sent.
    """
    if not _matches(_KIND, call.kind):
        name = getattr(call.kind, "__name__", None)  # a handler, or what calling an async one gives
        instead = f"publish the call {name}.task(…)" if name else "up to 200 letters, digits and _ . : -"
        raise InvalidTask(f"{call.kind!r} is not a kind: {instead}", index=index)
    if task_id is None:
        task_id = new_task_id()
    elif getattr(task_id, "version", None) != 7:
        raise ConfigurationError(f"task_id = {task_id!r} is not a UUIDv7, as a uuid.UUID: make it with new_task_id()")
    payload = _checked_json(call.payload, call.kind, index)
    traceparent, tracestate = current_trace() if trace is None else trace
    if call.queue and "queue" not in fields:
        fields = {**fields, "queue": call.queue}
    task = NewTask(
        id=task_id, kind=call.kind, payload=payload, traceparent=traceparent, tracestate=tracestate, **fields
    )
    return Prepared(task_id, call.kind, _encoder.encode(task), call.decode)


def untyped_call(kind: str, payload: object, *, index: int | None = None) -> TaskCall[Any]:
    """Turn a kind's name and any value that pydantic can write as JSON into a call with a plain JSON result.

    `bytes` are written as a JSON string, as they are inside of models. Raises InvalidTask, with the given
    `index`, for values that cannot be written.
    """
    try:
        body = to_json(payload)
    except (PydanticSerializationError, RecursionError) as error:
        raise InvalidTask(
            f"the payload for {kind!r} cannot be written as JSON: {error}: "
            "give JSON values, dataclasses or pydantic models",
            index=index,
        ) from error
    return TaskCall(kind, "", body, decode_json)


def call_of(call: TaskCall[Any] | str, payload: object) -> TaskCall[Any]:
    """Return the call that is meant, be it one or a kind and a payload. Raises InvalidTask; TypeError for both."""
    if not isinstance(call, TaskCall):
        return untyped_call(call, payload)
    if payload is not None:
        raise TypeError("publish() takes a TaskCall or a kind with a payload, not both")
    return call


def decode_json(result: bytes) -> Any:
    """Turn a result's JSON into plain values: nothing more is known of its type."""
    return msgspec.json.decode(result)


def _checked_json(payload: bytes, kind: str, index: int | None) -> msgspec.Raw:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise InvalidTask(
            f"the payload for {kind!r} has {len(payload):,} bytes as JSON, more than {MAX_PAYLOAD_BYTES:,}: "
            "store the data elsewhere and send where it is",
            index=index,
        )
    try:
        payload.decode()
        return _json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidTask(
            f"the payload for {kind!r} is not JSON (NaN and infinity are not): {error}", index=index
        ) from error


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _whole(value: object, *, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigurationError(f"{name} = {value!r} is not a whole number from {least} to {most:,}")
    return value


def _positive(value: Duration, *, name: str) -> float:
    seconds = parse_duration(value, name=name).total_seconds()
    if seconds <= 0:
        raise ConfigurationError(f"{name} = {value!r} must be longer than nothing")
    return seconds


def _aware(value: object, *, name: str) -> datetime:
    if not isinstance(value, datetime):
        raise ConfigurationError(f"{name} = {value!r} is not a datetime")
    if value.utcoffset() is None:
        raise ConfigurationError(f"{name} = {value!r} has no timezone: use datetime.now(UTC), or give it a tzinfo")
    return value
