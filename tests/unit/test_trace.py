"""The tracer of our spans, and the strings that travel."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from tacoq_protocol.trace import active_tracer, context_from, current_trace, trace_of
from tests.support.tracing import Spans

LATER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tacoq_protocol.trace import active_tracer

assert active_tracer() is None
trace.set_tracer_provider(TracerProvider())
assert active_tracer().start_span("a").is_recording()
"""


def test_there_is_no_tracer_without_a_provider_and_one_as_soon_as_it_is_set() -> None:
    """In a process of its own: it is set once for all."""
    subprocess.run([sys.executable, "-W", "error", "-c", LATER], check=True, timeout=30)


def test_with_an_api_that_does_not_tell_spans_record_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trace, "_TRACER_PROVIDER")
    assert active_tracer() is not None


def test_the_tracer_is_of_the_provider_that_is_set(spans: Spans) -> None:
    tracer = active_tracer()
    assert tracer is not None
    tracer.start_span("a").end()
    scope = spans.one("a").instrumentation_scope
    assert scope is not None
    assert scope.name == "tacoq"


def test_what_a_span_gives_to_travel_is_read_back() -> None:
    state = TraceState([("a", "b")])
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1), trace_state=state))
    carried = trace_of(span)
    assert carried == (f"00-{0xABC:032x}-{0xDEF:016x}-01", "a=b")
    with trace.use_span(span):
        assert current_trace() == carried
    found = trace.get_current_span(context_from(*carried)).get_span_context()
    assert (found.trace_id, found.span_id, found.trace_state) == (0xABC, 0xDEF, state)


def test_nothing_travels_outside_of_a_span() -> None:
    assert current_trace() == (None, None)
    assert context_from(None, None) == Context()
