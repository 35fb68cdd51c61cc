"""The span of a run: whose child it is, what it tells of the run, and that there is none where nobody wants it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.messages import Completed, Expired, Outcome
from tacoq_protocol.trace import current_trace
from tacoq_worker import Cancel, Fail, RateLimited, Retry, Snooze, Worker
from tests.support.tracing import Spans, parent_of, traceparent_of
from tests.worker.handlers import in_processes
from tests.worker.manager import make_release, playing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

worker = Worker("spans", concurrency=4)


@worker.task
async def trace_async() -> str | None:
    return current_trace()[0]


@worker.task
def trace_sync() -> str | None:
    return current_trace()[0]


@worker.task
async def nests_async() -> None:
    with trace.get_tracer("test").start_as_current_span("inner"):
        pass


@worker.task
def nests_sync() -> None:
    with trace.get_tracer("test").start_as_current_span("inner"):
        pass


@worker.task(max_attempts=2)
async def decide(how: str) -> None:
    match how:
        case "retry":
            raise Retry("10s", "not yet")
        case "fail":
            raise Fail("no use")
        case "cancel":
            raise Cancel
        case "snooze":
            raise Snooze("5m")
        case "rate limited":
            raise RateLimited("30s")
        case "value":
            raise ValueError("a value")


def decides(how: str) -> bytes:
    return json.dumps({"how": how}).encode()


def of(span: ReadableSpan, *names: str) -> list[object]:
    assert span.attributes is not None
    return [span.attributes.get(name) for name in names]


def traceparent(outcome: Outcome) -> str | None:
    """Return what a handler found to be current."""
    assert isinstance(outcome, Completed)
    found: str | None = json.loads(outcome.result)
    return found


@pytest.mark.parametrize(
    ("of_kind", "kind"), [(worker, "trace_async"), (worker, "trace_sync"), (in_processes, "traced")]
)
async def test_a_run_is_a_child_of_the_publish_and_its_handler_works_within_it(
    of_kind: Worker, kind: str, spans: Spans, make_broker: BrokerFactory
) -> None:
    release = make_release(kind, release=3, attempt=1, traceparent=PARENT, tracestate="a=b")
    async with playing(of_kind, make_broker) as (session, manager):
        await manager.publish(release)
        outcome = await manager.outcome(release)
    (span,) = spans.all
    assert (span.name, span.kind, parent_of(span)) == (f"process {kind}", SpanKind.CONSUMER, PARENT)
    assert traceparent(outcome) == traceparent_of(span)
    assert span.attributes is not None
    attributes = dict(span.attributes)
    waited = attributes.pop("tacoq.waited")
    assert isinstance(waited, float)
    assert 0 <= waited < 60
    assert attributes == {
        "messaging.system": "tacoq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": of_kind.queue,
        "messaging.message.id": str(release.task_id),
        "messaging.client.id": str(session.id),
        "tacoq.kind": kind,
        "tacoq.attempt": 1,
        "tacoq.release": 3,
        "tacoq.outcome": "completed",
    }
    assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())


@pytest.mark.parametrize("kind", ["nests_async", "nests_sync"])
async def test_spans_of_the_handler_are_children_of_its_run(
    kind: str, spans: Spans, make_broker: BrokerFactory
) -> None:
    async with playing(worker, make_broker) as (_, manager):
        await manager.run(kind, traceparent=PARENT)
    assert parent_of(spans.one("inner")) == traceparent_of(spans.one(f"process {kind}"))


async def test_a_task_that_carries_nothing_begins_a_trace_wherever_its_session_was_started(
    spans: Spans, make_broker: BrokerFactory
) -> None:
    with trace.get_tracer("test").start_as_current_span("around"):
        async with playing(worker, make_broker) as (_, manager):
            outcomes = [await manager.run("trace_async"), await manager.run("trace_async")]
    runs = spans.named("process trace_async")
    assert [parent_of(span) for span in runs] == [None, None]
    assert [traceparent(outcome) for outcome in outcomes] == [traceparent_of(span) for span in runs]


@pytest.mark.parametrize(
    ("how", "outcome", "retry", "error"),
    [
        ("return", "completed", None, None),
        ("cancel", "cancelled", None, None),
        ("snooze", "snoozed", None, None),
        ("rate limited", "snoozed", None, None),
        ("retry", "failed", True, "Retry"),
        ("value", "failed", True, "ValueError"),
        ("fail", "failed", False, "Fail"),
    ],
)
async def test_the_outcome_of_a_run_is_seen(
    how: str, outcome: str, retry: bool | None, error: str | None, spans: Spans, make_broker: BrokerFactory
) -> None:
    async with playing(worker, make_broker) as (_, manager):
        await manager.run("decide", decides(how))
    (span,) = spans.all
    assert of(span, "tacoq.outcome", "tacoq.retry", "error.type") == [outcome, retry, error]
    assert span.status.status_code is (StatusCode.UNSET if error is None else StatusCode.ERROR)


async def test_the_exception_of_a_failed_run_is_recorded(spans: Spans, make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        await manager.run("decide", decides("value"), attempt=1)
    (span,) = spans.all
    assert span.status.description == "ValueError: a value"
    (event,) = span.events
    assert event.attributes is not None
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "a value"
    assert "in decide" in str(event.attributes["exception.stacktrace"])
    assert of(span, "tacoq.retry") == [False]  # it was the last attempt


@pytest.mark.parametrize(
    ("kind", "payload", "error"),
    [
        ("tell", b'{"how": "fail"}', "Fail: no use"),
        ("crash", b'{"how": "exit"}', "ProcessCrashed: the process of the run ended with exit code 7"),
        ("too_long", b"{}", "TimeoutError: the run took longer than its timeout of 0.2 s"),
    ],
)
async def test_a_run_that_fails_or_dies_in_a_process_has_its_span(
    kind: str, payload: bytes, error: str, spans: Spans, make_broker: BrokerFactory
) -> None:
    async with playing(in_processes, make_broker) as (_, manager):
        await manager.run(kind, payload)
    (span,) = spans.all
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, error)


async def test_each_run_of_a_task_has_a_span(spans: Spans, make_broker: BrokerFactory) -> None:
    first = make_release("decide", decides("value"), traceparent=PARENT)
    second = make_release("decide", decides("return"), task_id=first.task_id, release=2, attempt=1, traceparent=PARENT)
    async with playing(worker, make_broker) as (_, manager):
        for release in (first, second):
            await manager.publish(release)
            await manager.outcome(release)
    assert [of(span, "tacoq.attempt", "tacoq.outcome") for span in spans.all] == [[0, "failed"], [1, "completed"]]
    assert {parent_of(span) for span in spans.all} == {PARENT}


async def test_how_long_a_task_waited_is_seen(spans: Spans, make_broker: BrokerFactory) -> None:
    now = datetime.now(UTC)
    async with playing(worker, make_broker) as (_, manager):
        await manager.run("trace_async", created_at=now - timedelta(seconds=90))
        await manager.run("trace_async", created_at=now + timedelta(seconds=90))  # by another clock
    waited = [of(span, "tacoq.waited")[0] for span in spans.all]
    assert isinstance(waited[0], float)
    assert 90 <= waited[0] < 150
    assert waited[1] == 0.0


async def test_what_is_not_run_has_no_span(spans: Spans, make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        late = await manager.run("trace_async", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert isinstance(late, Expired)
    assert spans.all == ()


@pytest.fixture
def unsampled(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> Spans:
    monkeypatch.setattr("tacoq_protocol.trace._tracer", TracerProvider(sampler=ALWAYS_OFF).get_tracer("test"))
    return spans


async def test_of_a_trace_that_is_not_sampled_the_context_goes_on(unsampled: Spans, make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        found = traceparent(await manager.run("trace_async", traceparent=PARENT))
    assert found is not None
    assert (found[:36], found[-2:]) == (PARENT[:36], "00")
    assert unsampled.all == ()


@pytest.mark.usefixtures("raising_spans")
async def test_run_goes_on_whatever_is_wrong_with_its_span(
    make_broker: BrokerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    async with playing(worker, make_broker) as (_, manager):
        assert traceparent(await manager.run("trace_async", traceparent=PARENT)) == PARENT
    assert "a span is not as it should be" in caplog.text


@pytest.mark.usefixtures("no_spans")
@pytest.mark.parametrize(
    ("of_kind", "kind"), [(worker, "trace_async"), (worker, "trace_sync"), (in_processes, "traced")]
)
async def test_without_a_provider_no_span_is_made_and_the_carried_context_goes_on(
    of_kind: Worker, kind: str, make_broker: BrokerFactory
) -> None:
    async with playing(of_kind, make_broker) as (_, manager):
        assert traceparent(await manager.run(kind, traceparent=PARENT)) == PARENT
