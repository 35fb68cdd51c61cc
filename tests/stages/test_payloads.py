"""Payloads at the door, against the schemas of live sessions."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest

from tacoq_manager.payloads import PayloadCheck
from tacoq_manager.sessions import Sessions
from tacoq_protocol.errors import InvalidTask
from tacoq_protocol.http import NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import KindSpec, Register
from tests.stages.floor import Floor

WANTS_X = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
WANTS_Y = {"type": "object", "properties": {"y": {"type": "array", "items": {"type": "string"}}}, "required": ["y"]}


def join(sessions: Sessions, schema: object) -> UUID:
    session = uuid4()
    spec = KindSpec("k", payload_schema=json.dumps(schema).encode())
    now = datetime.now(UTC)
    sessions.register(Register(session, "q", 1, [spec], "", "host", 1, "0", now), time.monotonic())
    return session


def test_problem_names_the_place_and_not_what_was_sent() -> None:
    sessions = Sessions()
    join(sessions, WANTS_Y)
    check = PayloadCheck(sessions)
    assert check.problem("q", "k", b'{"y": ["a"]}') is None
    assert check.problem("q", "k", b'{"y": ["a", 5]}') == '$.y[1]: value is not of type "string"'
    assert "Number out of range" in (check.problem("q", "k", b'{"y": 1e999}') or "")
    for depth in (500, 100_000):  # too deep for the schema's check, and for any reader
        assert "too deep" in (check.problem("q", "k", b"[" * depth + b"]" * depth) or "")


def test_kind_that_nobody_registered_takes_all() -> None:
    assert PayloadCheck(Sessions()).problem("q", "k", b"[]") is None


def test_payload_has_to_fit_one_of_the_versions_that_are_live_then_the_last() -> None:
    sessions = Sessions()
    check = PayloadCheck(sessions)
    old, new = join(sessions, WANTS_X), join(sessions, WANTS_Y)
    assert check.problem("q", "k", b'{"x": 1}') is None
    assert check.problem("q", "k", b'{"y": []}') is None
    assert check.problem("q", "k", b"{}") is not None
    sessions.leave(old)
    assert check.problem("q", "k", b'{"x": 1}') is not None
    sessions.leave(new)
    assert check.problem("q", "k", b'{"y": []}') is None
    assert check.problem("q", "k", b'{"x": 1}') is not None


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:1/x"}])
def test_schema_that_cannot_be_used_refuses_nothing(schema: object) -> None:
    sessions = Sessions()
    join(sessions, schema)
    assert PayloadCheck(sessions).problem("q", "k", b"[]") is None


async def test_batch_with_a_misfit_is_refused_whole_and_names_it(floor: Floor) -> None:
    join(floor.manager.sessions, WANTS_X)
    tasks = [NewTask(id=new_task_id(), kind="k", queue="q", payload=msgspec.Raw(p)) for p in (b'{"x": 1}', b"{}")]
    with pytest.raises(InvalidTask, match='\\$: "x" is a required property') as caught:
        await floor.manager.accepter.accept(tasks)
    assert caught.value.index == 1
    assert not await floor.connection.fetch("SELECT 1 FROM tasks")


async def test_resend_is_answered_although_workers_brought_another_schema_since(floor: Floor) -> None:
    (task_id,) = await floor.accept(kind="k")
    row = await floor.row(task_id)
    floor.join("k")  # any payload
    spec = KindSpec("k", payload_schema=json.dumps(WANTS_X).encode())
    register = Register(floor.session, "default", 1, [spec], "", "host", 1, "0", datetime.now(UTC))
    floor.manager.sessions.register(register, time.monotonic())
    again = NewTask(id=task_id, kind="k", payload=msgspec.Raw(row["payload"]), queue="default")
    running = asyncio.create_task(floor.manager.accepter.run())
    (accepted,) = await floor.manager.accepter.accept([again])
    running.cancel()
    assert (accepted.id, accepted.duplicate) == (task_id, True)
