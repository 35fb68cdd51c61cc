"""Traces: the tracer of our spans, and W3C trace context in and out of the two strings that travel with a task.

OpenTelemetry's API alone does nothing until an application installs its SDK: there are no spans of ours then, and
without a current span nothing travels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import Final, ParamSpec, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("tacoq.traces")

SYSTEM: Final = "tacoq"  # as messaging.system

_propagator = TraceContextTextMapPropagator()
_tracer: Final = trace.get_tracer(SYSTEM, version("tacoq-protocol"))  # of whichever provider is set, also later
_NOT_THERE: Final = object()

Carried = tuple[str | None, str | None]  # traceparent and tracestate, which travel with a task
_NOTHING: Final[Carried] = (None, None)


def active_tracer() -> Tracer | None:
    """Return the tracer for our spans; None while no tracer provider is set."""
    # Asked for each task. get_tracer_provider() looks into the environment first, which takes 1 µs; this takes 0.05. An
    # API that has no such name any more gives a tracer whose spans record nothing.
    return None if getattr(trace, "_TRACER_PROVIDER", _NOT_THERE) is None else _tracer


def harmless(work: Callable[P, T]) -> Callable[P, T | None]:
    """Return `work` that logs what it raises and returns None then: samplers and processors are somebody's code."""

    @wraps(work)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return work(*args, **kwargs)
        except Exception:
            log.exception("a span is not as it should be")
            return None

    return tried


def current_trace() -> Carried:
    """Return the trace context of the current span; nothing outside of one."""
    span = trace.get_current_span()
    return trace_of(span) if span.get_span_context().is_valid else _NOTHING


def trace_of(span: Span) -> Carried:
    """Return the trace context that makes children of `span`."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent"), carrier.get("tracestate")


def context_from(traceparent: str | None, tracestate: str | None) -> Context:
    """Return the context for work done for the span that published it; an empty one without it."""
    if traceparent is None:
        return Context()
    carrier = {"traceparent": traceparent}
    if tracestate is not None:
        carrier["tracestate"] = tracestate
    return _propagator.extract(carrier)
