"""Why a task is where it is, through the SDKs, on RabbitMQ with separate processes and embedded: the same on both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

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
