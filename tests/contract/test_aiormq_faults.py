"""Cancellations and errors as aiormq mixes them up, told apart."""

from __future__ import annotations

import asyncio

import pytest

from tacoq_protocol.brokers.faults import LinkLost, call


async def test_a_cancellation_that_nobody_asked_for_is_a_lost_link() -> None:
    async def dying() -> None:
        raise asyncio.CancelledError

    with pytest.raises(LinkLost):
        await call(dying())


async def test_a_bare_exception_is_a_lost_link() -> None:
    async def odd() -> None:
        raise Exception  # as aiormq does

    with pytest.raises(LinkLost):
        await call(odd())


@pytest.mark.parametrize("ends", ["with success", "with an error"])
async def test_a_cancellation_that_was_swallowed_is_one(ends: str) -> None:
    async def swallow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if ends == "with an error":
                raise RuntimeError("channel closed") from None

    task = asyncio.create_task(call(swallow()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_in_a_task_that_was_cancelled_before_calls_work_as_ever() -> None:
    seen: list[object] = []

    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(await call(asyncio.sleep(0, "done")))
            with pytest.raises(LinkLost, match="did not answer"):
                await call(asyncio.sleep(60), seconds=0.01)
            seen.append("in time")

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["done", "in time"]
