"""Why a task is where it is, through the SDKs, on RabbitMQ with separate processes and embedded: the same on both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from click.testing import CliRunner

from tacoq_protocol.cli import tacoq as tacoq_command
from tacoq_publisher import (
    Publisher,
    Reason,
    SyncPublisher,
    TaskHandle,
    TaskNotCompleted,
    TaskNotFound,
    Why,
    new_task_id,
)
from tests.acceptance import handlers as h
from tests.support.eventually import eventually


async def becomes(handle: TaskHandle[Any], reason: Reason) -> Why:
    """Wait until that is why."""

    async def asked() -> Why | None:
        why = await handle.why()
        return why if why.reason is reason else None

    found = await eventually(asked, what=reason)
    assert found is not None
    return found


async def tells(*args: str, url: str) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, tacoq_command, [*args, "--url", url])
    assert result.exit_code == 0, result.output


async def test_task_that_waits_says_for_what(url: str) -> None:
    async with Publisher(url) as tacoq:
        later = await tacoq.publish(h.add.task(1, 2), delay="1h")
        nowhere = await tacoq.publish("add", {"x": 1, "y": 2}, queue="nowhere")
        unheard = await tacoq.publish("unheard", queue="default")
        try:
            assert (await later.why()).reason is Reason.NOT_DUE
            why = await nowhere.why()
            assert why.reason is Reason.NO_WORKERS
            assert "kind 'add' is served in queue 'default'" in why.sentence
            why = await unheard.why()
            assert why.reason is Reason.UNKNOWN_KIND
            assert "no live worker of queue 'default' knows kind 'unheard'" in why.sentence
        finally:
            for handle in (later, nowhere, unheard):
                await handle.cancel()
        assert (await later.why()).reason is Reason.CANCELLED


async def test_task_that_runs_and_tasks_that_wait_for_its_slot(url: str) -> None:
    async with Publisher(url) as tacoq:
        running = [await tacoq.publish(h.nap_in_process.task(60.0)) for _ in range(h.processes.concurrency)]
        try:
            why = await becomes(running[0], Reason.RUNNING)
            assert why.sessions is not None
            assert f"in session {why.sessions[0]} (host {why.host}, pid {why.pid})" in why.sentence
            await becomes(running[1], Reason.RUNNING)
            waiting = [await tacoq.publish(h.nap_in_process.task(0.0)) for _ in range(3)]
            for place, handle in enumerate(waiting, 1):
                why = await becomes(handle, Reason.NO_SLOT)
                assert (why.position, why.slots, why.released) == (place, 2, 2)
            keyed = [await tacoq.publish(h.nap_in_process.task(0.0), fairness_key="tenant") for _ in range(2)]
            why = await becomes(keyed[1], Reason.BEHIND_KEY)
            assert why.position == 1 + 1 + 1
        finally:
            for handle in running:
                await handle.cancel()
        for handle in (*waiting, *keyed):
            await handle.result(30)


async def test_task_of_a_queue_that_is_paused_or_limited(url: str) -> None:
    async with Publisher(url) as tacoq:
        await tells("queues", "pause", "processes", url=url)
        try:
            paused = await tacoq.publish(h.nap_in_process.task(0.0))
            why = await becomes(paused, Reason.PAUSED)
            assert "tacoq queues resume processes" in why.sentence
        finally:
            await tells("queues", "resume", "processes", url=url)
        await paused.result(20)
        await tells("queues", "limit", "processes", "--concurrency", "1", url=url)
        try:
            runs = await tacoq.publish(h.nap_in_process.task(60.0))
            await becomes(runs, Reason.RUNNING)
            waits = await tacoq.publish(h.nap_in_process.task(0.0))
            why = await becomes(waits, Reason.AT_LIMIT)
            assert (why.limit, why.limit_of, why.used, why.most, why.position) == ("concurrency", "queue", 1, 1, 1)
            await runs.cancel()
            await waits.result(30)
            await tells("queues", "limit", "processes", "--rate", "1/h", url=url)
            await (await tacoq.publish(h.nap_in_process.task(0.0))).result(30)
            limited = await tacoq.publish(h.nap_in_process.task(0.0))
            why = await becomes(limited, Reason.AT_RATE)
            assert (why.limit, why.limit_of, why.most) == ("rate", "queue", "1/h")
        finally:
            await tells("queues", "limit", "processes", "--rate", "none", "--concurrency", "none", url=url)
        await limited.result(30)


async def test_task_of_a_kind_whose_handler_was_rate_limited(url: str) -> None:
    async with Publisher(url) as tacoq:
        first = await tacoq.publish(h.is_limited.task())
        await becomes(first, Reason.SNOOZED)
        second = await tacoq.publish(h.is_limited.task())
        why = await becomes(second, Reason.HELD_BACK)
        assert why.limit_of == "kind"
        assert "kind 'is_limited' is held back until" in why.sentence
        for handle in (first, second):
            await handle.cancel()
        await tells("kinds", "resume", "is_limited", url=url)


async def test_task_that_ended_and_one_that_is_tried_again(url: str) -> None:
    async with Publisher(url) as tacoq:
        done = await tacoq.publish(h.add.task(2, 3))
        await done.result(20)
        assert (await done.why()).reason is Reason.COMPLETED
        again = await tacoq.publish(h.fails.task("no such mailbox"))
        why = await becomes(again, Reason.RETRY_WAIT)
        assert (why.attempt, why.max_attempts, why.error) == (1, 2, "ValueError: no such mailbox")
        await again.cancel()
        failed = await tacoq.publish(h.fails.task("no such mailbox"), max_attempts=1)
        with pytest.raises(TaskNotCompleted):
            await failed.result(20)
        why = await failed.why()
        assert why.reason is Reason.FAILED
        assert "its attempts (1) are used up" in why.sentence
        with pytest.raises(TaskNotFound):
            await tacoq.handle(new_task_id()).why()


async def test_without_asyncio(url: str) -> None:
    def ask() -> Reason:
        with SyncPublisher(url) as tacoq:
            handle = tacoq.publish("add", {"x": 1, "y": 2}, delay="1h")
            reason = handle.why().reason
            handle.cancel()
            return reason

    assert await asyncio.to_thread(ask) is Reason.NOT_DUE
