"""Calls and options become the task that is sent, or an error that names what is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from pydantic import BaseModel

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import ConfigurationError, InvalidTask
from tacoq_protocol.http import MAX_PAYLOAD_BYTES, NewTask
from tacoq_publisher import TaskOptions, new_task_id
from tacoq_publisher.newtask import decode_json, prepare, publish_options, untyped_call
from tacoq_worker import Worker

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def sent(payload: object = None, *, task_id: UUID | None = None, **options: Any) -> NewTask:
    """Return what a manager reads for this publish."""
    prepared = prepare(untyped_call("add", payload), publish_options(**options), task_id=task_id)
    task = msgspec.json.decode(prepared.body, type=NewTask)
    assert task.id == prepared.id
    return task


class Mail(BaseModel):
    to: str
    copies: int = 1


@dataclass
class Point:
    x: int
    y: int


@pytest.mark.parametrize(
    ("payload", "json"),
    [
        (None, b"null"),
        ({"x": 2, "y": [1.5, "ä", None, True]}, '{"x":2,"y":[1.5,"ä",null,true]}'.encode()),
        (Mail(to="ann"), b'{"to":"ann","copies":1}'),
        (Point(1, 2), b'{"x":1,"y":2}'),
        ({"at": NOON, "mail": Mail(to="bob")}, b'{"at":"2030-01-01T12:00:00Z","mail":{"to":"bob","copies":1}}'),
        (10**30, b"1000000000000000000000000000000"),
        (b"bytes are text", b'"bytes are text"'),
    ],
)
def test_a_payload_is_written_as_pydantic_writes_it(payload: object, json: bytes) -> None:
    assert bytes(sent(payload).payload) == json


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"queue": "mail.fast"}, "queue", "mail.fast"),
        ({"priority": 9}, "priority", 9),
        ({"delay": "10m"}, "delay", 600.0),
        ({"delay": 0}, "delay", 0.0),
        ({"delay": timedelta(days=2)}, "delay", 172_800.0),
        ({"run_at": NOON}, "run_at", NOON),
        ({"expires": "1h30m"}, "expires_in", 5400.0),
        ({"expires": NOON}, "expires_at", NOON),
        ({"max_attempts": 1}, "max_attempts", 1),
        ({"timeout": 2.5}, "timeout", 2.5),
        ({"idempotency_key": "order-17"}, "idempotency_key", "order-17"),
        ({"idempotency_key": "a", "idempotency_window": "7d"}, "idempotency_window", 604_800.0),
        ({"unique": ["doc", "lang"]}, "unique", ("doc", "lang")),
        ({"unique": True}, "unique", True),
        ({"unique": True, "on_conflict": "replace"}, "on_conflict", "replace"),
        ({"unique": False, "on_conflict": "return", "idempotency_key": None}, "unique", False),
        ({"queue": None, "delay": None, "run_at": None, "expires": None, "timeout": None}, "delay", None),
    ],
)
def test_an_option_reaches_its_field(options: TaskOptions, field: str, value: object) -> None:
    assert getattr(sent(**options), field) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": "a b"}, "queue = 'a b'"),
        ({"queue": "a\n"}, "queue = 'a\\\\n'"),
        ({"queue": 7}, "queue = 7"),
        ({"priority": 10}, "priority = 10 is not a whole number from 0 to 9"),
        ({"priority": -1}, "priority = -1"),
        ({"priority": "high"}, "priority = 'high'"),
        ({"priority": True}, "priority = True"),
        ({"delay": -1}, "delay = -1 is not a duration"),
        ({"delay": "soon"}, "delay = 'soon' is not a duration"),
        ({"delay": 1, "run_at": NOON}, "exclude each other"),
        ({"run_at": datetime(2030, 1, 1)}, "run_at = .* has no timezone"),  # noqa: DTZ001
        ({"run_at": "tomorrow"}, "run_at = 'tomorrow' is not a datetime"),
        ({"expires": datetime(2030, 1, 1)}, "expires = .* has no timezone"),  # noqa: DTZ001
        ({"expires": 0}, "expires = 0 must be longer than nothing"),
        ({"max_attempts": 0}, "max_attempts = 0 is not a whole number from 1 to 1,000"),
        ({"max_attempts": 1.5}, "max_attempts = 1.5"),
        ({"timeout": 0}, "timeout = 0 must be longer than nothing"),
        ({"timeout": math.inf}, "timeout = inf is not a duration"),
        ({"idempotency_key": ""}, "idempotency_key = ''"),
        ({"idempotency_key": "a\n"}, "idempotency_key = "),
        ({"idempotency_key": 17}, "idempotency_key = 17"),
        ({"idempotency_window": "1h"}, "without an idempotency_key"),
        ({"idempotency_key": "a", "idempotency_window": 0}, "must be longer than nothing"),
        ({"unique": "doc"}, "unique = 'doc' is neither"),
        ({"unique": []}, "unique = \\[\\] is neither"),
        ({"unique": ["doc", 5]}, "unique = "),
        ({"unique": [f"f{n}" for n in range(21)]}, "at most 20"),
        ({"unique": 1}, "unique = 1 is neither"),
        ({"on_conflict": "replace"}, "give unique, too"),
        ({"unique": True, "on_conflict": "ignore"}, "on_conflict = 'ignore' is none of return, replace, reject"),
        ({"task_id": uuid4()}, "is not a UUIDv7"),
        ({"task_id": "17"}, "task_id = '17'"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sent(**options)


def test_an_unknown_option_is_named_beside_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="publish has no option 'priorty'; its options: queue, priority, "):
        sent(priorty=3)


@pytest.mark.parametrize("kind", ["", "a b", "send\n", "x" * 201, None, 3])
def test_a_wrong_kind_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidTask, match="is not a kind") as caught:
        prepare(untyped_call(kind, 1), {}, index=7)
    assert caught.value.index == 7


def test_a_handler_in_the_place_of_its_call_is_told_so() -> None:
    @Worker().task("sums.add")
    async def add(x: int) -> int:
        return x

    with pytest.raises(InvalidTask, match=r"is not a kind: publish the call add\.task\(…\)"):
        prepare(untyped_call(add, None), {})  # type: ignore[arg-type]
    called = add(1)
    with pytest.raises(InvalidTask, match=r"publish the call add\.task\(…\)"):
        prepare(untyped_call(called, None), {})  # type: ignore[arg-type]
    called.close()


def circle() -> list[object]:
    circle: list[object] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    "payload",
    [object(), {"a": {1, object()}}, math.nan, [math.inf], {"x": "\ud800"}, b"\xff", circle()],
    ids=["object", "nested object", "nan", "infinity", "lone surrogate", "bytes that are no text", "circle"],
)
def test_a_payload_that_is_not_json_is_refused(payload: object) -> None:
    with pytest.raises(InvalidTask, match="payload for 'add'"):
        sent(payload)


@pytest.mark.parametrize("payload", [b"", b"{", b"1,2", b'1,"priority":9', b'"\xff"', b"NaN", b"[" * 100_000])
def test_a_call_whose_payload_is_not_json_is_refused(payload: bytes) -> None:
    """It would spoil the requests of others: bodies are joined as they are."""
    with pytest.raises(InvalidTask, match="is not JSON"):
        prepare(TaskCall("add", "default", payload, decode_json), {})


def test_a_payload_may_have_one_mebibyte_and_not_more() -> None:
    assert len(bytes(sent("x" * (MAX_PAYLOAD_BYTES - 2)).payload)) == MAX_PAYLOAD_BYTES
    with pytest.raises(InvalidTask, match="has 1,048,577 bytes as JSON, more than 1,048,576"):
        sent("x" * (MAX_PAYLOAD_BYTES - 1))


def test_ids_are_made_in_order_or_taken_as_given() -> None:
    ids = [sent().id for _ in range(100)]
    assert ids == sorted(set(ids))
    mine = new_task_id()
    assert sent(task_id=mine).id == mine


def test_the_queue_of_a_call_is_used_unless_the_option_says_otherwise() -> None:
    call = TaskCall("add", "sums", b"1", decode_json)
    assert b'"queue":"sums"' in prepare(call, publish_options()).body
    assert b'"queue":"fast"' in prepare(call, publish_options(queue="fast")).body
    assert sent().queue is None


def test_the_trace_context_of_the_caller_travels_with_the_task() -> None:
    assert sent().traceparent is None
    context = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        assert sent().traceparent == f"00-{0xABC:032x}-{0xDEF:016x}-01"
