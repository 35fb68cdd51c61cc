"""Fairness keys take turns, whatever the length of their lines; priority goes before them."""

from __future__ import annotations

import asyncio

from tacoq_publisher import Publisher, TaskState
from tests.acceptance.handlers import nap

MANY = 600


async def test_key_with_many_tasks_does_not_hold_up_another_keys_one(url: str) -> None:
    async with Publisher(url) as tacoq:
        many = await tacoq.publish_many((nap.task(0.1) for _ in range(MANY)), fairness_key="big")
        one = await tacoq.publish(nap.task(0.1), fairness_key="small")
        assert (await one.view()).fairness_key == "small"
        await one.result(30)
        states = [view.state for view in await asyncio.gather(*(handle.view() for handle in many[::10]))]
        assert states.count(TaskState.PENDING) > len(states) / 2, "they wait, and were accepted before it"
        await asyncio.gather(*(handle.result(60) for handle in many))
