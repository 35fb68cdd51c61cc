"""Worker: the public object. Functions in, by `@worker.task`; a queue's handlers out, for a session."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Concatenate, Literal, Never, ParamSpec, Protocol, TypeVar, overload

from tacoq_protocol.cron import Cron, MissedPolicy, cron_problem, timezone_problem
from tacoq_protocol.durations import Duration
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.http import KIND_PATTERN, QUEUE_PATTERN
from tacoq_protocol.labels import NO_LABELS, check_labels
from tacoq_worker.context import Context
from tacoq_worker.registry import AnyHandler, Backoff, Handler, OnLost, Policy, Registry

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")
C = ParamSpec("C")
T = ParamSpec("T")

Missed = Literal["skip", "run_once", "run_all"]
Executor = Literal["thread", "process"]
THREAD_SLOTS = 100  # waiting costs nothing on the event loop, and little in a thread
MAX_SLOTS = 10_000
_TASK_OPTIONS = tuple(field.name for field in fields(Policy))


class TaskDecorator(Protocol):
    """`async def` or `def`; the Context first, second of two, or not there: the shapes that types can tell apart.

    Elsewhere the types of `.task` keep it, though at run time it is left out wherever it stands.
    """

    # The first that fits is taken; mypy fears functions of two Contexts, or that return a coroutine.

    @overload
    def __call__(
        self, function: Callable[[A, Context], Coroutine[Any, Any, R]], /
    ) -> Handler[[A, Context], [A], Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> Handler[Concatenate[Context, P], P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Handler[P, P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[[A, Context], R], /) -> Handler[[A, Context], [A], R, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], R], /
    ) -> Handler[Concatenate[Context, P], P, R, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Handler[P, P, R, R]: ...


class CronDecorator(Protocol):
    """A handler, or a function that needs no arguments but the Context: that becomes one of its own name."""

    # mypy makes Handler[Any, …] of an async handler: its type has an Any in it, so that every overload fits.

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Handler[C, T, A, R], /
    ) -> Handler[C, T, A, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> Handler[Concatenate[Context, P], P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Handler[P, P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], R], /
    ) -> Handler[Concatenate[Context, P], P, R, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Handler[P, P, R, R]: ...


class Worker:
    """The handlers of one queue, and how many of its tasks run at once in each session process.

    `executor="thread"`: `async def` handlers run on the event loop, `def` handlers in threads.
    `executor="process"`: `def` handlers only, each run in a process that a crash or a timeout may take away.
    `concurrency` is the number of slots: 100 by default, for processes one per CPU.
    `labels` are shown wherever workers are listed; TACOQ_WORKER_LABELS and `--label` add to them.
    """

    def __init__(
        self,
        queue: str = "default",
        *,
        concurrency: int | None = None,
        executor: Executor = "thread",
        labels: Mapping[str, str] = NO_LABELS,
        **unknown: Never,
    ) -> None:
        """Connects to nothing. Raises ConfigurationError, naming the option."""
        _refuse_unknown("Worker", unknown, ("queue", "concurrency", "executor", "labels"))
        name: object = queue
        if not isinstance(name, str) or not re.fullmatch(QUEUE_PATTERN, name):
            raise ConfigurationError(f"queue = {queue!r} is not a queue's name: up to 100 letters, digits, and _ . -")
        if executor not in ("thread", "process"):
            raise ConfigurationError(f'executor = {executor!r} is neither "thread" nor "process"')
        self.queue = queue
        self.executor: Executor = executor
        self.concurrency = _slots(concurrency, executor)
        self.labels = check_labels(labels)
        self.registry = Registry()

    @overload
    def task(
        self, function: Callable[[A, Context], Coroutine[Any, Any, R]], /
    ) -> Handler[[A, Context], [A], Coroutine[Any, Any, R], R]: ...
    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> Handler[Concatenate[Context, P], P, Coroutine[Any, Any, R], R]: ...
    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Handler[P, P, Coroutine[Any, Any, R], R]: ...
    @overload
    def task(self, function: Callable[[A, Context], R], /) -> Handler[[A, Context], [A], R, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> Handler[Concatenate[Context, P], P, R, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Handler[P, P, R, R]: ...
    @overload
    def task(
        self,
        kind: str | None = None,
        /,
        *,
        max_attempts: int = 3,
        backoff: Backoff = ...,
        timeout: Duration | None = None,
        retry_on: tuple[type[BaseException], ...] = ...,
        on_lost: OnLost = "retry",
        concurrency: int | None = None,
        rate: str | None = None,
        max_per_key: int | None = None,
        rate_per_key: str | None = None,
    ) -> TaskDecorator: ...
    def task(self, kind: Any = None, /, **options: Any) -> Any:
        """Register a function as the handler of a kind: its own name, or the one given.

        `max_attempts` bounds the runs that fail or are lost; `timeout` is for one run; an exception that is
        not in `retry_on` (default: all) fails the task at once; `on_lost="fail"` does so when the process of
        a started run dies.

        Limits hold over all workers: `concurrency` tasks of the kind are released at once, `max_per_key` of one
        fairness key; `rate` and `rate_per_key` ("100/s", "10/h") bound how many are released in a time. They can be
        changed at run time. Raises ConfigurationError, naming kind and option, also when the kind has a handler
        already.
        """
        if callable(kind):
            return self._register(kind, None, Policy())
        if kind is not None and not isinstance(kind, str):
            raise ConfigurationError(f'@worker.task({kind!r}): a kind is a string, as in @worker.task("emails.send")')
        _refuse_unknown("@worker.task", options, _TASK_OPTIONS)
        return lambda function: self._register(function, kind, Policy(**options))

    def cron(
        self, expression: str, /, *, timezone: str = "UTC", missed: Missed = "run_once", **unknown: Never
    ) -> CronDecorator:
        """Publish a task without payload at each fire time of a cron expression: `@worker.cron("0 3 * * *")`.

        Above `@worker.task(...)`, or alone, where it registers the function, too. `timezone` is a name of the IANA
        database. `missed` says what becomes of fire times at which no manager was there: "skip", "run_once" for all
        of them, or "run_all", the last 100. Raises ConfigurationError, naming what is wrong.
        """
        _refuse_unknown("@worker.cron", unknown, ("timezone", "missed"))
        cron = _checked_cron(expression, timezone, missed)

        def decorate(function: Any) -> Any:
            handler = function if isinstance(function, Handler) else self._register(function, None, Policy())
            if self.registry.get(handler.kind) is not handler:
                raise ConfigurationError(f"@worker.cron on {handler!r}: it belongs to another Worker, take its cron")
            handler.fire_at(cron)
            return handler

        return decorate

    def _register(self, function: Callable[..., Any], kind: str | None, policy: Policy) -> AnyHandler:
        if not inspect.isfunction(function):
            raise ConfigurationError(f"@worker.task on {function!r}: decorate a function")
        kind = function.__name__ if kind is None else kind
        if not re.fullmatch(KIND_PATTERN, kind):
            raise ConfigurationError(
                f"kind {kind!r} is not a kind's name: up to 200 letters, digits, and _ . : -, as in "
                '@worker.task("emails.send")'
            )
        self._refuse_shape(function, kind)
        handler: AnyHandler = Handler(function, kind=kind, queue=self.queue, policy=policy)
        self.registry.add(handler)
        return handler

    def _refuse_shape(self, function: Callable[..., Any], kind: str) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"handler {kind!r} is a generator: return one result instead of yielding")
        if self.executor == "process":
            if inspect.iscoroutinefunction(function):
                raise ConfigurationError(
                    f'handler {kind!r} is `async def`, and Worker(executor="process") runs `def` only: '
                    "make it `def`, or register it with another Worker"
                )
            if "<locals>" in function.__qualname__:
                raise ConfigurationError(
                    f"handler {kind!r} is defined inside a function, where another process cannot import it: "
                    "move it to module level"
                )

    def __repr__(self) -> str:
        kinds = len(self.registry)
        return f"<Worker queue={self.queue!r} executor={self.executor!r} slots={self.concurrency} kinds={kinds}>"


def _checked_cron(expression: object, timezone: object, missed: object) -> Cron:
    where = f"@worker.cron({expression!r})"
    if not isinstance(expression, str):
        raise ConfigurationError(f'{where}: give a cron expression, as in @worker.cron("0 3 * * *")')
    if problem := cron_problem(expression, datetime.now(UTC)):
        raise ConfigurationError(f"{where}: {problem}")
    if not isinstance(timezone, str):
        raise ConfigurationError(f"{where}: timezone = {timezone!r} is not a string: give one like 'Europe/Lisbon'")
    if problem := timezone_problem(timezone):
        raise ConfigurationError(f"{where}: timezone = {problem}")
    if not isinstance(missed, str) or missed not in list(MissedPolicy):
        raise ConfigurationError(f'{where}: missed = {missed!r} is none of "skip", "run_once" and "run_all"')
    return Cron(expression, timezone, MissedPolicy(missed))


def _slots(concurrency: int | None, executor: Executor) -> int:
    if concurrency is None:
        return THREAD_SLOTS if executor == "thread" else _usable_cpus()
    given: object = concurrency
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_SLOTS:
        raise ConfigurationError(f"concurrency = {given!r} is not an integer from 1 to {MAX_SLOTS}")
    return given


def _usable_cpus() -> int:
    # A container may have fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refuse_unknown(where: str, given: object, known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known] if isinstance(given, dict) else []
    if unknown:
        raise ConfigurationError(f"{where} has no option {unknown[0]!r}; its options: {', '.join(known)}")
