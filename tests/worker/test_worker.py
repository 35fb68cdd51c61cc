"""The public object: options, kinds, and that a handler stays a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import tacoq_worker
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.messages import Backoff as WireBackoff
from tacoq_worker import Backoff, Context, Worker


def test_the_public_names_are_these() -> None:
    exported = ["Backoff", "Cancel", "Context", "Fail", "RateLimited", "Retry", "Snooze", "Worker"]
    assert sorted(tacoq_worker.__all__) == exported


def test_a_handler_is_called_like_the_function_it_was() -> None:
    worker = Worker()

    @worker.task
    async def add(x: int, y: int) -> int:
        """Add."""
        return x + y

    @worker.task("math.double")
    def double(x: int) -> int:
        return 2 * x

    assert asyncio.run(_await(add)) == 5
    assert double(4) == 8
    assert (add.kind, double.kind, add.__doc__) == ("add", "math.double", "Add.")


async def _await(add: Callable[[int, int], Any]) -> int:
    result: int = await add(2, 3)
    return result


def test_options_reach_the_registration() -> None:
    worker = Worker()

    @worker.task(max_attempts=5, backoff=Backoff("2s", factor=3, max="1m"), timeout="30s", on_lost="fail")
    def work() -> None: ...

    @worker.task
    def plain() -> None: ...

    spec = work.spec
    assert (spec.name, spec.max_attempts, spec.timeout, spec.on_lost) == ("work", 5, 30.0, "fail")
    assert spec.backoff == WireBackoff(base=2.0, factor=3.0, max=60.0)
    assert (plain.spec.max_attempts, plain.spec.timeout, plain.spec.on_lost) == (3, None, "retry")


def test_limits_reach_the_registration() -> None:
    worker = Worker()

    @worker.task(concurrency=50, rate="100/s", max_per_key=2, rate_per_key="10/h")
    def work() -> None: ...

    spec = work.spec
    assert (spec.concurrency, spec.rate, spec.max_per_key, spec.rate_per_key) == (50, "100/s", 2, "10/h")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_atempts": 3}, "no option 'max_atempts'; its options: max_attempts"),
        ({"max_attempts": 0}, "max_attempts = 0 is not an integer from 1 to 1000"),
        ({"max_attempts": "3"}, "max_attempts = '3'"),
        ({"max_attempts": True}, "max_attempts = True"),
        ({"timeout": "soon"}, "timeout = 'soon' is not a duration"),
        ({"timeout": 0}, "timeout = 0 leaves no time"),
        ({"backoff": "1s"}, "backoff = '1s' is not a Backoff"),
        ({"backoff": Backoff("x")}, "backoff base = 'x' is not a duration"),
        ({"backoff": Backoff("1s", factor=0.5)}, "backoff factor = 0.5"),
        ({"backoff": Backoff("1h", max="1s")}, "backoff max = '1s' is less"),
        ({"retry_on": ("ValueError",)}, "retry_on = .* is not a tuple of exception classes"),
        ({"retry_on": [ValueError]}, "retry_on"),
        ({"on_lost": "ignore"}, "on_lost = 'ignore' is neither"),
        ({"concurrency": 0}, "work: concurrency = 0 is not an integer from 1 to 1,000,000"),
        ({"max_per_key": True}, "work: max_per_key = True is not an integer"),
        ({"rate": "100"}, "work: rate = '100' is not a rate: give one like"),
        ({"rate": 100}, "work: rate = '100' is not a rate"),
        ({"rate_per_key": "0/s"}, "work: rate_per_key = '0/s' is not a rate"),
    ],
)
def test_a_wrong_option_is_named_with_its_kind(options: dict[str, Any], words: str) -> None:
    def work() -> None: ...

    with pytest.raises(ConfigurationError, match=words):
        Worker().task("work", **options)(work)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": {"region": 1}}, "label 'region' = 1 is not a label's value"),
        ({"concurency": 5}, "Worker has no option 'concurency'; its options: queue, concurrency, executor, labels"),
        ({"concurrency": 0}, "concurrency = 0"),
        ({"concurrency": "many"}, "concurrency = 'many'"),
        ({"executor": "fork"}, "executor = 'fork' is neither"),
        ({"queue": "a b"}, "queue = 'a b' is not a queue's name"),
        ({"queue": 5}, "queue = 5"),
    ],
)
def test_a_wrong_option_of_the_worker_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Worker(**options)


def test_a_kind_has_one_handler() -> None:
    worker = Worker()
    worker.task("a")(_plain)
    with pytest.raises(ConfigurationError, match=r"kind 'a' is registered twice, for .*_plain and .*_other"):
        worker.task("a")(_other)


@pytest.mark.parametrize("kind", ["", "a b", "x" * 201, ".hidden"])
def test_a_kind_that_is_no_name_is_refused(kind: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a kind's name"):
        Worker().task(kind)(_plain)


def test_what_cannot_be_a_handler_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a kind is a string"):
        Worker().task(5)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="decorate a function"):
        Worker().task(Context)
    with pytest.raises(ConfigurationError, match="'_generator' is a generator"):
        Worker().task(_generator)
    with pytest.raises(ConfigurationError, match="'_async_generator' is a generator"):
        Worker().task(_async_generator)


def test_processes_take_importable_plain_functions_only() -> None:
    def local() -> None: ...

    worker = Worker(executor="process")
    with pytest.raises(ConfigurationError, match="runs `def` only"):
        worker.task(_async)
    with pytest.raises(ConfigurationError, match="defined inside a function"):
        worker.task(local)
    assert worker.concurrency >= 1


def test_the_hash_follows_the_kinds_and_not_their_order() -> None:
    one, two, three = Worker(), Worker(), Worker()
    for worker, functions in ((one, [_plain, _other]), (two, [_other, _plain]), (three, [_plain])):
        for function in functions:
            worker.task(function)
    assert one.registry.hash() == two.registry.hash() != three.registry.hash()


def _plain() -> None: ...
def _other() -> None: ...
def _generator() -> Iterator[int]:
    yield 1


async def _async() -> None: ...
async def _async_generator() -> AsyncIterator[int]:
    yield 1
