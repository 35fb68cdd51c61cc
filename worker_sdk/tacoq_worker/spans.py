"""Spans: a run in, the CONSUMER span around its handler out; none while the application has no tracer provider.

It is made in the session's process, whatever runs the handler: a child that crashes or is killed takes no span with
it. Its parent is the span that published the task. Names and attributes are those of OpenTelemetry's messaging
conventions, and where these have none, `tacoq.…`.
"""

from __future__ import annotations

from uuid import UUID

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from tacoq_protocol.messages import Failed, Outcome
from tacoq_protocol.trace import SYSTEM, context_from, harmless
from tacoq_worker.execute import Run


@harmless
def start_run(tracer: Tracer, run: Run, session: UUID) -> Span:
    """Start the span of a run that has begun."""
    release = run.release
    return tracer.start_span(
        f"process {release.kind}",
        context_from(release.traceparent, release.tracestate),
        SpanKind.CONSUMER,
        {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": run.handler.queue,
            "messaging.message.id": str(release.task_id),
            "messaging.client.id": str(session),
            "tacoq.kind": release.kind,
            "tacoq.attempt": release.attempt,
            "tacoq.release": release.release,
            "tacoq.waited": max(0.0, (run.started_at - release.created_at).total_seconds()),
        },
    )


@harmless
def end_run(span: Span, run: Run, outcome: Outcome) -> None:
    """End it with what the run is reported as."""
    if span.is_recording():
        span.set_attribute("tacoq.outcome", type(outcome).__name__.lower())
        if isinstance(outcome, Failed):
            _note_failure(span, run, outcome)
    span.end()


def _note_failure(span: Span, run: Run, outcome: Failed) -> None:
    """As managers get it: the exception itself may have been another process's."""
    error = outcome.error
    event = {"exception.type": error.type, "exception.message": error.message}
    if error.traceback is not None:
        event["exception.stacktrace"] = error.traceback
    span.add_event("exception", event)
    span.set_attribute("error.type", error.type)
    span.set_attribute("tacoq.retry", outcome.retryable and outcome.attempt + 1 < run.most_attempts)
    span.set_status(Status(StatusCode.ERROR, f"{error.type}: {error.message}"))
