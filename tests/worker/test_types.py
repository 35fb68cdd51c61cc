"""What type checkers see: mypy runs over this file, and the calls that must not pass are marked."""

from __future__ import annotations

import asyncio
from typing import assert_type

import pytest

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import ConfigurationError
from tacoq_worker import Context, Worker

worker = Worker("types")


@worker.task
async def add(x: int, y: int = 1) -> int:
    return x + y


@worker.task("double", timeout="1s")
def double(x: int) -> str:
    return str(2 * x)


@worker.task
async def context_first(ctx: Context, x: int) -> int:
    return x


@worker.task("second", max_attempts=2)
async def context_second(x: int, ctx: Context) -> int:
    return x


@worker.task
def context_second_sync(x: int, ctx: Context) -> int:
    return x


def test_calls_keep_their_types() -> None:
    assert_type(add.task(1, y=2), TaskCall[int])
    assert_type(double.task(1), TaskCall[str])
    assert_type(double(1), str)
    assert_type(context_first.task(x=1), TaskCall[int])
    assert_type(context_second.task(1), TaskCall[int])
    assert_type(context_second_sync.task(1), TaskCall[int])
    assert_type(asyncio.run(add(1, 2)), int)


def test_wrong_calls_are_seen() -> None:
    add.task("1")  # type: ignore[arg-type]
    context_first.task("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        double.task()  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError):
        Worker(concurency=1)  # type: ignore[arg-type]
