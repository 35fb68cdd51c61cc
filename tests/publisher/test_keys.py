"""A publish that is answered with another task: its handle is that task's, however it was sent."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tacoq_protocol.errors import InvalidTask, TaskConflict
from tacoq_protocol.http import TASK_EXISTS
from tacoq_publisher import Publisher, SyncPublisher, TaskExists, TaskOptions, new_task_id
from tests.publisher.scripted_manager import ScriptedManager
from tests.publisher.steps import cut_after_doing, refuses

BATCH = "/tasks/batch"
HOLDER = new_task_id()
EXISTS: dict[str, Any] = {"type": TASK_EXISTS, "task_id": HOLDER}


async def test_handle_is_that_of_the_task_in_the_answer(manager: ScriptedManager, publisher: Publisher) -> None:
    first = await publisher.publish("add", 1, idempotency_key="a")
    second = await publisher.publish("add", 1, idempotency_key="a")
    assert (second.id, second.duplicate, first.duplicate) == (first.id, True, False)
    waiting = [asyncio.create_task(handle.result(10)) for handle in (first, second)]
    await manager.finish(first.id, result=b"5")
    assert await asyncio.gather(*waiting) == [5, 5]


async def test_publishes_that_share_a_request_each_get_their_own_answer(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    keys = ["a", None, "b", "a", "b", None, "a"]
    handles = await asyncio.gather(*(publisher.publish("add", 1, idempotency_key=key) for key in keys))
    places = [keys.index(key) if key else place for place, key in enumerate(keys)]
    assert [handle.id for handle in handles] == [handles[place].id for place in places]
    assert [handle.duplicate for handle in handles] == [place != own for own, place in enumerate(places)]
    assert list(manager.accepted) == [handles[place].id for place in sorted(set(places))]


async def test_resend_after_a_lost_answer_leaves_the_handle_with_the_task_of_the_answer(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    manager.script(BATCH, cut_after_doing)
    first = await publisher.publish("add", 1, idempotency_key="a")
    assert (first.duplicate, list(manager.accepted)) == (False, [first.id]), "its own resend is none of another"
    manager.script(BATCH, cut_after_doing)
    assert (await publisher.publish("add", 1, idempotency_key="a")).id == first.id


async def test_each_of_many_has_the_key_with_its_index(manager: ScriptedManager, publisher: Publisher) -> None:
    once = await publisher.publish_many((("add", i) for i in range(1_500)), idempotency_key="import-7")
    assert not any(handle.duplicate for handle in once)
    again = await publisher.publish_many((("add", i) for i in range(1_500)), idempotency_key="import-7")
    assert [handle.id for handle in again] == [handle.id for handle in once]
    assert [manager.accepted[once[i].id].idempotency_key for i in (0, 1_499)] == ["import-7[0]", "import-7[1499]"]
    assert len(manager.accepted) == 1_500
    asking = asyncio.create_task(anext(publisher.completed_batches([once[3], again[3]])))
    await manager.finish(once[3].id)
    assert set(await asking) <= {once[3], again[3]}


async def test_other_payload_under_the_same_key_is_a_warning(
    manager: ScriptedManager, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tacoq.publisher"):
        first = await publisher.publish("add", 1, idempotency_key="a")
        assert caplog.records == []
        await publisher.publish("add", 2, idempotency_key="a")
    (warning,) = caplog.records
    assert vars(warning)["task_id"] == first.id


async def test_rejected_publish_raises_task_exists_and_the_others_go_again(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    manager.script(BATCH, refuses(409, "task x is rejected", index=1, **EXISTS))
    options: TaskOptions = {"unique": True, "on_conflict": "reject"}
    results = await asyncio.gather(*(publisher.publish("add", i, **options) for i in range(3)), return_exceptions=True)
    rejected = results.pop(1)
    assert isinstance(rejected, TaskExists)
    assert rejected.task_id == HOLDER
    assert len(manager.accepted) == len(results) == 2


async def test_rejected_item_of_many_is_named_and_those_before_it_are_accepted(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    manager.script(BATCH, refuses(409, "task x is rejected", index=2, **EXISTS))
    with pytest.raises(TaskExists) as caught:
        await publisher.publish_many((("add", i) for i in range(5)), unique=True, on_conflict="reject")
    assert (caught.value.index, caught.value.task_id) == (2, HOLDER)
    assert len(manager.accepted) == 2


async def test_other_conflicts_stay_what_they_are(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.script(BATCH, refuses(409, "known with other content", task_id=HOLDER))
    with pytest.raises(TaskConflict):
        await publisher.publish("add", 1, unique=True)
    manager.script(BATCH, refuses(422, "no field 'doc'", index=0))
    with pytest.raises(InvalidTask, match="no field 'doc'"):
        await publisher.publish("add", 1, unique=("doc",))


async def test_blocking_publisher_tells_of_the_duplicate_as_well(manager: ScriptedManager) -> None:
    def use() -> None:
        with SyncPublisher(manager.url) as tacoq:
            first = tacoq.publish("add", 1, idempotency_key="a")
            (again,) = tacoq.publish_many([("add", 1)], idempotency_key="b")
            second = tacoq.publish("add", 1, idempotency_key="b[0]")
            assert (first.duplicate, again.duplicate, second.duplicate) == (False, False, True)
            assert second.id == again.id

    await asyncio.to_thread(use)
