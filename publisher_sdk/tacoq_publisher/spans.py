"""Spans: a publish in, the PRODUCER span around it out; none while the application has no tracer provider.

Tasks carry the context of this span, so the spans of their runs are its children. Names and attributes are those of
OpenTelemetry's messaging conventions, and where these have none, `tacoq.…`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.trace import SYSTEM, harmless
from tacoq_publisher.handle import TaskHandle
from tacoq_publisher.newtask import TaskOptions


@harmless
def start_publish(tracer: Tracer, call: TaskCall[Any] | str, options: TaskOptions, *, type: str = "send") -> Span:
    """Start the span of one publish. `type`: "create" where sending it is left to somebody else."""
    kind, queue = (call.kind, call.queue) if isinstance(call, TaskCall) else (call, None)
    attributes = _attributes(type, options.get("queue") or queue)
    attributes["tacoq.kind"] = str(kind)
    return tracer.start_span(f"publish {kind}", kind=SpanKind.PRODUCER, attributes=attributes)


@harmless
def start_publish_many(tracer: Tracer, options: TaskOptions) -> Span:
    """Start the one span of many publishes."""
    return tracer.start_span("publish", kind=SpanKind.PRODUCER, attributes=_attributes("send", options.get("queue")))


@harmless
def published(span: Span, task_id: UUID, *, duplicate: bool = False) -> None:
    """Note the task that answers for this publish: of a `duplicate` the run has another trace."""
    span.set_attribute("messaging.message.id", str(task_id))
    if duplicate:
        span.set_attribute("tacoq.duplicate", True)


@harmless
def published_many(span: Span, handles: Sequence[TaskHandle[Any]]) -> None:
    """Note how many were accepted, and the kind if it is the same for all."""
    if not span.is_recording():
        return
    span.set_attribute("messaging.batch.message_count", len(handles))
    kinds = {handle.kind for handle in handles}
    if len(kinds) == 1:
        (kind,) = kinds
        span.set_attribute("tacoq.kind", str(kind))
        span.update_name(f"publish {kind}")


@harmless
def end_publish(span: Span, error: BaseException | None = None) -> None:
    """End it. A publish that was cancelled has failed, too: nobody knows what became of it."""
    if error is not None and span.is_recording():
        name = type(error).__name__
        span.record_exception(error)
        span.set_attribute("error.type", name)
        span.set_status(Status(StatusCode.ERROR, f"{name}: {error}"))
    span.end()


@contextmanager
def around(span: Span | None) -> Iterator[None]:
    """End `span`, if there is one, with the block and its error."""
    try:
        yield
    except BaseException as error:
        if span is not None:
            end_publish(span, error)
        raise
    if span is not None:
        end_publish(span)


def _attributes(type: str, queue: str | None) -> dict[str, str]:
    attributes = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": "publish",
        "messaging.operation.type": type,
    }
    if queue:
        attributes["messaging.destination.name"] = str(queue)
    return attributes
