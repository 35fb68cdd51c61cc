"""Kinds in, by decorator; their handlers out, by kind."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast

import msgspec

from tacoq_protocol import messages
from tacoq_protocol.calls import TaskCall
from tacoq_protocol.cron import Cron
from tacoq_protocol.durations import Duration, parse_duration
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.limits import MOST_CONCURRENCY
from tacoq_protocol.messages import KindSpec
from tacoq_protocol.rates import parse_rate
from tacoq_worker.arguments import Arguments

CallP = ParamSpec("CallP")  # the function's parameters
TaskP = ParamSpec("TaskP")  # without the Context
ReturnT = TypeVar("ReturnT")  # what the call returns; a coroutine for `async def`
ResultT = TypeVar("ResultT")  # what the task results in

MAX_ATTEMPTS = 1_000
OnLost = Literal["retry", "fail"]


@dataclass(frozen=True)
class Backoff:
    """Wait before retry n: min(max, base × factor^(n-1)), of which the upper half is drawn at random."""

    base: Duration = 1.0
    factor: float = 2.0
    max: Duration = "1h"

    def on_the_wire(self, kind: str) -> messages.Backoff:
        """Return it in seconds. Raises ConfigurationError, naming `kind`."""
        base = parse_duration(self.base, name=f"{kind}: backoff base").total_seconds()
        most = parse_duration(self.max, name=f"{kind}: backoff max").total_seconds()
        factor: object = self.factor
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor <= 1000:
            raise ConfigurationError(f"{kind}: backoff factor = {factor!r} is not a number from 1 to 1000")
        if most < base:
            raise ConfigurationError(f"{kind}: backoff max = {self.max!r} is less than base = {self.base!r}")
        return messages.Backoff(base=base, factor=float(factor), max=most)


@dataclass(frozen=True)
class Policy:
    """The options of `@worker.task`, as given."""

    max_attempts: int = 3
    backoff: Backoff = Backoff()
    timeout: Duration | None = None
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    on_lost: OnLost = "retry"
    concurrency: int | None = None
    rate: str | None = None
    max_per_key: int | None = None
    rate_per_key: str | None = None

    def spec(self, kind: str, arguments: Arguments) -> KindSpec:
        """Return the kind as the manager registers it. Raises ConfigurationError, naming kind and option."""
        return KindSpec(
            name=kind,
            max_attempts=self._max_attempts(kind),
            backoff=self._backoff(kind),
            timeout=self._timeout(kind),
            on_lost=self._on_lost(kind),
            payload_schema=arguments.payload_schema(),
            result_schema=arguments.result_schema(),
            concurrency=_concurrency(self.concurrency, f"{kind}: concurrency"),
            rate=_rate(self.rate, f"{kind}: rate"),
            max_per_key=_concurrency(self.max_per_key, f"{kind}: max_per_key"),
            rate_per_key=_rate(self.rate_per_key, f"{kind}: rate_per_key"),
        )

    def _max_attempts(self, kind: str) -> int:
        given: object = self.max_attempts
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_ATTEMPTS:
            raise ConfigurationError(f"{kind}: max_attempts = {given!r} is not an integer from 1 to {MAX_ATTEMPTS}")
        return given

    def _backoff(self, kind: str) -> messages.Backoff:
        given: object = self.backoff
        if not isinstance(given, Backoff):
            raise ConfigurationError(
                f'{kind}: backoff = {given!r} is not a Backoff: give Backoff("1s", factor=2, max="1h")'
            )
        return given.on_the_wire(kind)

    def _timeout(self, kind: str) -> float | None:
        if self.timeout is None:
            return None
        seconds = parse_duration(self.timeout, name=f"{kind}: timeout").total_seconds()
        if seconds == 0:
            raise ConfigurationError(
                f"{kind}: timeout = {self.timeout!r} leaves no time to run: leave it out for no limit"
            )
        return seconds

    def _on_lost(self, kind: str) -> str:
        given: object = self.on_lost
        if given not in ("retry", "fail"):
            raise ConfigurationError(f'{kind}: on_lost = {given!r} is neither "retry" nor "fail"')
        return str(given)

    def checked_retry_on(self, kind: str) -> tuple[type[BaseException], ...]:
        """Return `retry_on`. Raises ConfigurationError when it is not exception classes."""
        given: object = self.retry_on
        if isinstance(given, type):
            given = (given,)
        if not isinstance(given, tuple) or not all(isinstance(c, type) and issubclass(c, BaseException) for c in given):
            raise ConfigurationError(f"{kind}: retry_on = {self.retry_on!r} is not a tuple of exception classes")
        return given


def _concurrency(given: object, name: str) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_CONCURRENCY:
        raise ConfigurationError(f"{name} = {given!r} is not an integer from 1 to {MOST_CONCURRENCY:,}")
    return given


def _rate(given: object, name: str) -> str | None:
    if given is None:
        return None
    try:
        return parse_rate(given if isinstance(given, str) else repr(given)).text
    except ValueError as error:
        raise ConfigurationError(f"{name} = {error}") from None


class Handler(Generic[CallP, TaskP, ReturnT, ResultT]):
    """A decorated function: still plainly callable, and `.task(…)` makes a call to publish.

    With the Context as first parameter the types of `.task` leave it out; at run time it is left out wherever
    it stands.
    """

    def __init__(self, function: Callable[CallP, ReturnT], *, kind: str, queue: str, policy: Policy) -> None:
        functools.update_wrapper(self, function)
        self.function: Callable[..., Any] = function
        self.kind = kind
        self.queue = queue
        self.is_async = inspect.iscoroutinefunction(function)
        self.arguments = Arguments(function, name=f"handler {kind!r}")
        self.spec = policy.spec(kind, self.arguments)
        self.timeout = self.spec.timeout
        self.retry_on = policy.checked_retry_on(kind)
        self.reference = f"{function.__module__}:{function.__qualname__}"

    def fire_at(self, cron: Cron) -> None:
        """Give the kind a schedule. Raises ConfigurationError when it has one, or a payload that nobody would give."""
        if self.spec.cron is not None:
            raise ConfigurationError(
                f"handler {self.kind!r} has a schedule already ({self.spec.cron.text!r}): make one expression of both, "
                "or another handler, or a schedule at run time with `tacoq schedules add`"
            )
        if not self.arguments.optional:
            raise ConfigurationError(
                f"handler {self.kind!r} needs a payload, and a schedule in code gives none: give its parameters "
                "defaults, or make the schedule at run time with `tacoq schedules add`"
            )
        self.spec = msgspec.structs.replace(self.spec, cron=cron)

    def __call__(self, *args: CallP.args, **kwargs: CallP.kwargs) -> ReturnT:
        """Call the function, as if it were not decorated."""
        return cast("ReturnT", self.function(*args, **kwargs))

    def task(self, *args: TaskP.args, **kwargs: TaskP.kwargs) -> TaskCall[ResultT]:
        """Return the call to publish: kind, payload as JSON, and the result's type.

        Raises TypeError when the arguments do not fit the signature or cannot be written as JSON.
        """
        payload = self.arguments.call_payload(args, kwargs)
        return TaskCall(kind=self.kind, queue=self.queue, payload=payload, decode=self.arguments.decode_result)

    def __repr__(self) -> str:
        return f"<handler of kind {self.kind!r}: {self.reference}>"


AnyHandler = Handler[Any, Any, Any, Any]


class Registry:
    """Handlers by kind."""

    def __init__(self) -> None:
        self._handlers: dict[str, AnyHandler] = {}

    def add(self, handler: AnyHandler) -> None:
        """Raises ConfigurationError when the kind has a handler already."""
        known = self._handlers.get(handler.kind)
        if known is not None:
            raise ConfigurationError(
                f"kind {handler.kind!r} is registered twice, for {known.reference} and {handler.reference}: "
                'give one of them another kind, as in @worker.task("other_kind")'
            )
        self._handlers[handler.kind] = handler

    def get(self, kind: str) -> AnyHandler | None:
        return self._handlers.get(kind)

    def __iter__(self) -> Iterator[AnyHandler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)

    def specs(self) -> list[KindSpec]:
        """Every kind as the manager registers it, by name."""
        return [self._handlers[kind].spec for kind in sorted(self._handlers)]

    def hash(self) -> str:
        """The same for the same specs, in every process."""
        return hashlib.sha256(msgspec.msgpack.encode(self.specs())).hexdigest()[:16]
