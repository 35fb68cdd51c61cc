"""W3C trace context of the calling code, in and out of the two strings that travel with a task.

OpenTelemetry's API alone costs nothing until an application installs its SDK: without a current span nothing travels.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


def current_trace() -> tuple[str | None, str | None]:
    """Return (traceparent, tracestate) of the current span; (None, None) outside of one."""
    if not trace.get_current_span().get_span_context().is_valid:
        return None, None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent"), carrier.get("tracestate")


def context_from(traceparent: str | None, tracestate: str | None) -> Context | None:
    """Return the context to attach around work done for the span that published it; None without one."""
    if traceparent is None:
        return None
    carrier = {"traceparent": traceparent}
    if tracestate is not None:
        carrier["tracestate"] = tracestate
    return _propagator.extract(carrier)
