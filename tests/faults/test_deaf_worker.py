"""A worker that beats and hears nothing of its queue is found by what waits beside it, and consumes anew."""

from __future__ import annotations

import pytest

from tacoq_embedded.stack import Stack
from tacoq_manager.settings import Settings
from tacoq_publisher import Publisher
from tests.acceptance.handlers import add, worker


@pytest.mark.timeout(120)
async def test_worker_that_went_deaf_is_told_to_consume_anew(database: str) -> None:
    async with Stack([worker], Settings(database_url=database, port=0), grace=1.0) as stack:
        async with Publisher(stack.url) as tacoq:
            assert await (await tacoq.publish(add.task(1, 2))).result(20) == 3
            queue = stack.hub._queues[stack.manager.topology.task_queue_name("default")]
            queue.taps.clear()  # the broker has forgotten the consumer, and told nobody
            assert await (await tacoq.publish(add.task(3, 4))).result(60) == 7
