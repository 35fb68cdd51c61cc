"""Handlers of an application that has set up OpenTelemetry's SDK: ended spans go to the file that SPANS names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from tacoq_worker import Backoff, Context, Worker

worker = Worker(queue="default", concurrency=4)
processes = Worker(queue="processes", concurrency=1, executor="process")
tracer = trace.get_tracer("application")


class _ToFile(SpanExporter):
    """A line of JSON for each, whole: several processes write."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with Path(os.environ["SPANS"]).open("a") as lines:
            for span in spans:
                lines.write(span.to_json(indent=None) + "\n")
                lines.flush()
        return SpanExportResult.SUCCESS


if "SPANS" in os.environ:  # else a test imports this
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_ToFile()))
    trace.set_tracer_provider(provider)


@worker.task
async def in_loop() -> None:
    with tracer.start_as_current_span("in_loop works"):
        pass


@worker.task
def in_thread() -> None:
    with tracer.start_as_current_span("in_thread works"):
        pass


@processes.task
def in_process() -> None:
    with tracer.start_as_current_span("in_process works"):
        pass


@worker.task(max_attempts=3, backoff=Backoff("10ms", max="10ms"))
async def third_time(ctx: Context) -> None:
    if ctx.attempt < 2:
        raise ValueError(f"attempt {ctx.attempt}")
