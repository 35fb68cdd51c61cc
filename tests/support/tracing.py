"""Spans in memory: an application's tracer provider for a test in, the spans that were made out.

A plugin of `tests/conftest.py`: its fixtures are everybody's.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

_exporter = InMemorySpanExporter()
_provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)  # a tracer keeps its first one
_provider.add_span_processor(SimpleSpanProcessor(_exporter))


class Spans:
    """The spans that have ended, in the order of their ends."""

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return _exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """As in an application that has set up OpenTelemetry's SDK."""
    _exporter.clear()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", _provider)
    yield Spans()
    _exporter.clear()


class Raising(SpanProcessor):
    """Somebody's, with a mistake in it."""

    def on_start(self, span: object, parent_context: object = None) -> None:
        raise RuntimeError("on start")


@pytest.fixture
def raising_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an application whose processor of spans raises."""
    provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    provider.add_span_processor(Raising())
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr("tacoq_protocol.trace._tracer", provider.get_tracer("test"))


@pytest.fixture
def no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in one that has not: whoever asks for a span fails."""

    class NoTracer:
        def start_span(self, *_: object, **__: object) -> None:
            raise AssertionError("a span was asked for")

    monkeypatch.setattr("tacoq_protocol.trace._tracer", NoTracer())


def traceparent_of(span: ReadableSpan) -> str:
    """Return what its children carry."""
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_of(span: ReadableSpan) -> str | None:
    """Return the traceparent that it was made with."""
    parent = span.parent
    return None if parent is None else f"00-{parent.trace_id:032x}-{parent.span_id:016x}-{parent.trace_flags:02x}"
