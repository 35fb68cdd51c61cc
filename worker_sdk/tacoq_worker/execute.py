"""Execute: one release in, one outcome out. Decode, call, encode; whatever is raised becomes an outcome.

`call_async` runs on the event loop; `call_sync` in a thread or in a process of its own. Neither raises,
except for KeyboardInterrupt and GeneratorExit, which are not the handler's.
"""

from __future__ import annotations

import time
import traceback
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.trace import Span, set_span_in_context

from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.messages import (
    Cancelled,
    Completed,
    Failed,
    Holds,
    Outcome,
    Release,
    Returned,
    ReturnReason,
    Snoozed,
)
from tacoq_protocol.trace import context_from
from tacoq_worker.arguments import InvalidPayload, InvalidResult
from tacoq_worker.context import Context
from tacoq_worker.outcomes import Cancel, Fail, RateLimited, Retry, Snooze
from tacoq_worker.registry import AnyHandler

MAX_MESSAGE_CHARS: Final = 8_000
MAX_TRACEBACK_CHARS: Final = 32_000
CANCELLED_ON_REQUEST: Final = "cancelled on request"
_OUR_FOLDER: Final = str(Path(__file__).parent)


class Stop(Enum):
    """Why a run is asked to stop before it ended."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


class ProcessCrashed(Exception):
    """The process of a run ended before the run did."""


class Run:
    """One run of a release. `began` is monotonic; `timeout`, in seconds, is the release's own, else the kind's.

    `span` is what is made for it here; without one its handler goes on with what the release carries.
    """

    __slots__ = ("began", "context", "handler", "release", "span", "started_at", "stop", "timeout")

    def __init__(self, release: Release, handler: AnyHandler) -> None:
        self.release = release
        self.handler = handler
        self.timeout = handler.timeout if release.timeout is None else release.timeout
        self.stop: Stop | None = None
        self.context: Context | None = None
        self.span: Span | None = None
        self.began = 0.0
        self.started_at = release.created_at  # until it begins

    def begin(self) -> None:
        """The run starts now."""
        self.began = time.monotonic()
        self.started_at = datetime.now(UTC)
        if self.handler.arguments.wants_context:
            release = self.release
            self.context = Context(
                task_id=release.task_id,
                kind=release.kind,
                queue=self.handler.queue,
                attempt=release.attempt,
                release=release.release,
                deadline=None if self.timeout is None else self.started_at + timedelta(seconds=self.timeout),
            )

    @property
    def most_attempts(self) -> int:
        """Of runs that fail, or are lost."""
        return self.release.max_attempts or self.handler.spec.max_attempts

    def trace(self) -> otel_context.Context:
        """Return the trace context for the handler."""
        carried = context_from(self.release.traceparent, self.release.tracestate)
        return carried if self.span is None else set_span_in_context(self.span, carried)

    def ask_to_stop(self) -> None:
        """Tell the handler, if it looks."""
        if self.context is not None:
            self.context.ask_to_stop()


async def call_async(run: Run) -> Outcome:
    """Run an `async def` handler on this loop. A CancelledError ends the run, and not the caller."""
    handler, release = run.handler, run.release
    token = None if release.traceparent is None and run.span is None else otel_context.attach(run.trace())
    try:
        arguments = handler.arguments.bind(release.payload, run.context)
        return completed(run, handler.arguments.encode_result(await handler.function(**arguments)))
    except BaseException as error:
        return raised(run, error)
    finally:
        if token is not None:
            otel_context.detach(token)


def call_sync(run: Run) -> Outcome:
    """Run a `def` handler in this thread."""
    handler, release = run.handler, run.release
    token = None if release.traceparent is None and run.span is None else otel_context.attach(run.trace())
    try:
        arguments = handler.arguments.bind(release.payload, run.context)
        return completed(run, handler.arguments.encode_result(handler.function(**arguments)))
    except BaseException as error:
        return raised(run, error)
    finally:
        if token is not None:
            otel_context.detach(token)


def completed(run: Run, result: bytes) -> Outcome:
    """The handler returned. After its time is a failure in every executor; after a cancel it counts."""
    if run.stop is Stop.TIMEOUT:
        return timed_out(run)
    release = run.release
    return Completed(release.task_id, release.release, run.started_at, time.monotonic() - run.began, result)


def raised(run: Run, error: BaseException) -> Outcome:
    """The handler raised, or what stands around it did. Re-raises what is not the handler's."""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        raise error
    if run.stop is not None:
        return stopped(run, run.stop)
    release, seconds = run.release, time.monotonic() - run.began
    match error:
        case Cancel():
            return Cancelled(release.task_id, release.release, run.started_at, seconds, clean(_text(error)))
        case Snooze():
            return Snoozed(release.task_id, release.release, run.started_at, seconds, error.seconds)
        case RateLimited():
            holds = Holds.KEY if error.key else Holds.KIND
            return Snoozed(release.task_id, release.release, run.started_at, seconds, error.seconds, holds)
        case Retry():
            return failed(run, _info(error, error.__cause__), retryable=True, delay=error.seconds)
        case Fail():
            return failed(run, _info(error, error.__cause__), retryable=False)
        case ProcessCrashed():
            # As when a whole worker is lost: whoever asked for no second run of these gets none.
            return failed(run, _info(error, None), retryable=run.handler.spec.on_lost == "retry")
        case InvalidPayload():
            info = ErrorInfo("InvalidPayload", f"the payload does not fit {release.kind!r}: {clean(_text(error))}")
            return failed(run, info, retryable=False)
        case InvalidResult():
            info = ErrorInfo("InvalidResult", f"the result of {release.kind!r} does not fit: {clean(_text(error))}")
            return failed(run, info, retryable=False)
        case _:
            return failed(run, _info(error, error), retryable=isinstance(error, run.handler.retry_on))


def stopped(run: Run, stop: Stop) -> Outcome:
    """The run ended because we stopped it."""
    release = run.release
    match stop:
        case Stop.TIMEOUT:
            return timed_out(run)
        case Stop.CANCEL:
            seconds = time.monotonic() - run.began
            return Cancelled(release.task_id, release.release, run.started_at, seconds, CANCELLED_ON_REQUEST)
        case Stop.SHUTDOWN:
            return Returned(release.task_id, release.release, ReturnReason.SHUTDOWN)


def not_started(run: Run, stop: Stop) -> Outcome:
    """The run was stopped before it began."""
    release = run.release
    if stop is Stop.CANCEL:
        return Cancelled(release.task_id, release.release, None, 0.0, CANCELLED_ON_REQUEST)
    return Returned(release.task_id, release.release, ReturnReason.SHUTDOWN)


def timed_out(run: Run) -> Outcome:
    """The run took longer than its timeout."""
    return failed(run, ErrorInfo("TimeoutError", f"the run took longer than its timeout of {run.timeout:g} s"))


def failed(run: Run, error: ErrorInfo, *, retryable: bool = True, delay: float | None = None) -> Outcome:
    """The run failed; whether it is tried again is the manager's to decide."""
    release = run.release
    return Failed(
        task_id=release.task_id,
        release=release.release,
        started_at=run.started_at,
        seconds=time.monotonic() - run.began,
        attempt=release.attempt,
        error=error,
        retryable=retryable,
        delay=delay,
        kind=release.kind,
    )


def refused(run: Run, error: Exception) -> Outcome:
    """The run ended, and its report cannot be sent."""
    info = ErrorInfo("ReportRefused", f"the report of this run cannot be encoded: {clean(_text(error))}")
    return failed(run, info, retryable=False)


def clean(text: str, most: int = MAX_MESSAGE_CHARS) -> str:
    """Return `text` as Postgres and UTF-8 take it: NUL and lone surrogates replaced, cut in the middle."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half:,} characters cut …]\n{text[-half:]}"
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _info(error: BaseException, shown: BaseException | None) -> ErrorInfo:
    """`shown` is where the traceback comes from: the error itself, or what a verdict was raised from."""
    return ErrorInfo(
        clean(type(error).__name__),
        clean(_text(error)),
        None if shown is None else clean(_traceback(shown), MAX_TRACEBACK_CHARS),
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # the user's own __str__
        return f"<its text cannot be had: {type(second).__name__}>"


def _traceback(error: BaseException) -> str:
    """As Python prints it, without our frames above the handler's."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OUR_FOLDER):
        frame = frame.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frame, limit=-50))
    except Exception as second:
        return f"<its traceback cannot be printed: {type(second).__name__}>"
