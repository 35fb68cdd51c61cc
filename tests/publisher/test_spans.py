"""The span of a publish: what it tells, that tasks carry its context, and that there is none where nobody wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy.orm import Session

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import ConfigurationError, InvalidTask
from tacoq_publisher import Publisher, SyncPublisher, outbox
from tests.publisher.outboxes import OnSQLite, tasks_in
from tests.publisher.scripted_manager import REFUSED_KIND, ScriptedManager, manager_in_a_thread
from tests.publisher.steps import held
from tests.support.eventually import eventually
from tests.support.tracing import Spans, parent_of, traceparent_of

BATCH = "/tasks/batch"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    assert span.attributes is not None
    return dict(span.attributes)


def failed_with(span: ReadableSpan) -> str | None:
    """Return the error that it ended with."""
    error = attributes(span).get("error.type")
    assert (error is not None) == (span.status.status_code is StatusCode.ERROR)
    assert [event.name for event in span.events] == ([] if error is None else ["exception"])
    return error


def carried(manager: ScriptedManager) -> set[str | None]:
    return {task.traceparent for task in manager.accepted.values()}


async def test_a_publish_is_a_child_of_the_callers_span_and_its_task_carries_it(
    manager: ScriptedManager, publisher: Publisher, spans: Spans
) -> None:
    with trace.get_tracer("test").start_as_current_span("caller"):
        handle = await publisher.publish("add", {"x": 1}, queue="sums")
    span = spans.one("publish add")
    assert (span.kind, parent_of(span)) == (SpanKind.PRODUCER, traceparent_of(spans.one("caller")))
    assert attributes(span) == {
        "messaging.system": "tacoq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "sums",
        "messaging.message.id": str(handle.id),
        "tacoq.kind": "add",
    }
    assert failed_with(span) is None
    assert manager.accepted[handle.id].traceparent == traceparent_of(span)


async def test_publishes_that_share_a_request_have_spans_of_their_own(
    manager: ScriptedManager, publisher: Publisher, spans: Spans
) -> None:
    handles = await asyncio.gather(*(publisher.publish(TaskCall("add", "sums", b"1", int)) for _ in range(250)))
    assert len(manager.requests(BATCH)) < 250
    made = {attributes(span)["messaging.message.id"]: span for span in spans.named("publish add")}
    assert len(made) == 250
    for handle in handles:
        assert manager.accepted[handle.id].traceparent == traceparent_of(made[str(handle.id)])
    assert {attributes(span)["messaging.destination.name"] for span in made.values()} == {"sums"}


async def test_a_publish_of_many_has_one_span_that_all_tasks_carry(
    manager: ScriptedManager, publisher: Publisher, spans: Spans
) -> None:
    await publisher.publish_many((("add", i) for i in range(2_500)), queue="sums")
    (span,) = spans.all
    assert (span.name, span.kind) == ("publish add", SpanKind.PRODUCER)
    assert attributes(span) == {
        "messaging.system": "tacoq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "sums",
        "messaging.batch.message_count": 2_500,
        "tacoq.kind": "add",
    }
    assert len(manager.accepted) == 2_500
    assert carried(manager) == {traceparent_of(span)}


async def test_many_of_several_kinds_are_no_publish_of_one(publisher: Publisher, spans: Spans) -> None:
    await publisher.publish_many([("add", 1), ("subtract", 2)])
    (span,) = spans.all
    assert span.name == "publish"
    assert "tacoq.kind" not in attributes(span)


async def test_a_publish_that_fails_has_a_span_with_the_error(
    manager: ScriptedManager, publisher: Publisher, spans: Spans
) -> None:
    with pytest.raises(InvalidTask):
        await publisher.publish(REFUSED_KIND, 1)
    with pytest.raises(InvalidTask):
        await publisher.publish_many((REFUSED_KIND if i == 1_100 else "add", i) for i in range(3_000))
    one, many = spans.all
    assert (failed_with(one), failed_with(many)) == ("InvalidTask", "InvalidTask")
    assert attributes(many)["messaging.batch.message_count"] == len(manager.accepted) == 1_100


async def test_a_publish_that_is_cancelled_ends_its_span(
    manager: ScriptedManager, publisher: Publisher, spans: Spans
) -> None:
    manager.script(BATCH, held(asyncio.Event()))
    publishing = asyncio.create_task(publisher.publish("add", 1))
    await eventually(lambda: manager.requests(BATCH))
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert failed_with(spans.one("publish add")) == "CancelledError"


async def test_a_publish_that_another_task_answers_names_that_one(publisher: Publisher, spans: Spans) -> None:
    first = await publisher.publish("add", 1, idempotency_key="a")
    await publisher.publish("add", 1, idempotency_key="a")
    told = [attributes(span) for span in spans.named("publish add")]
    assert [each["messaging.message.id"] for each in told] == [str(first.id)] * 2
    assert [each.get("tacoq.duplicate") for each in told] == [None, True]


@pytest.fixture
def threaded() -> Iterator[tuple[ScriptedManager, SyncPublisher]]:
    with manager_in_a_thread(finish_at_once=True) as manager, SyncPublisher(manager.url) as publisher:
        yield manager, publisher


def test_publishes_without_a_loop_have_the_same_spans(
    threaded: tuple[ScriptedManager, SyncPublisher], spans: Spans
) -> None:
    manager, publisher = threaded
    with trace.get_tracer("test").start_as_current_span("caller"):
        publisher.publish("add", 1)
        publisher.publish_many([("subtract", 1), ("subtract", 2)])
    with pytest.raises(InvalidTask):
        publisher.publish_many([("multiply", 1), (REFUSED_KIND, 2)])
    caller, one, many, fails = (
        spans.one("caller"), spans.one("publish add"), spans.one("publish subtract"), spans.one("publish multiply")
    )  # fmt: skip
    assert parent_of(one) == parent_of(many) == traceparent_of(caller)
    assert failed_with(fails) == "InvalidTask"
    assert carried(manager) == {traceparent_of(span) for span in (one, many, fails)}


def test_a_publish_into_an_outbox_creates_what_a_forwarder_sends(sqlite: OnSQLite, spans: Spans) -> None:
    with Session(sqlite.engine) as session, session.begin():
        task_id = outbox.publish(session, "add", 1)
        with pytest.raises(ConfigurationError):
            outbox.publish(session, "subtract", 1, on_conflict="reject", unique=True)
    (task,) = asyncio.run(tasks_in(sqlite))
    span = spans.one("publish add")
    assert task.traceparent == traceparent_of(span)
    told = attributes(span)
    assert (told["messaging.operation.type"], told["messaging.message.id"]) == ("create", str(task_id))
    assert failed_with(spans.one("publish subtract")) == "ConfigurationError"


@pytest.mark.usefixtures("raising_spans")
async def test_publish_goes_on_whatever_is_wrong_with_its_span(manager: ScriptedManager, publisher: Publisher) -> None:
    await publisher.publish("add", {"x": 1})
    await publisher.publish_many([("add", {"x": 2})])
    assert carried(manager) == {None}


@pytest.mark.usefixtures("no_spans")
async def test_without_a_provider_no_span_is_made(
    manager: ScriptedManager, publisher: Publisher, sqlite: OnSQLite
) -> None:
    await publisher.publish("add", 1)
    await publisher.publish_many([("add", 1), ("add", 2)])
    with Session(sqlite.engine) as session, session.begin():
        outbox.publish(session, "add", 1)
    assert carried(manager) | {task.traceparent for task in await tasks_in(sqlite)} == {None}
