"""publish(): concurrent calls share requests, in order, and each caller gets its own answer."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import ConfigurationError, InvalidTask, ManagerError, TaskConflict
from tacoq_publisher import Publisher, PublisherClosed, TaskHandle, new_task_id
from tacoq_publisher.newtask import decode_json
from tacoq_publisher.turns import IN_A_TURN
from tests.publisher.scripted_manager import REFUSED_KIND, VAGUE_KIND, ScriptedManager
from tests.publisher.steps import cut_after_doing, held, says

BATCH = "/tasks/batch"


async def test_a_lone_publish_costs_one_request_and_is_accepted_when_it_returns(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handle = await publisher.publish("add", {"x": 2}, priority=5, queue="sums")
    task = manager.accepted[handle.id]
    assert (task.kind, bytes(task.payload), task.priority, task.queue) == ("add", b'{"x":2}', 5, "sums")
    assert handle.kind == "add"
    assert len(manager.seen) == 1


async def test_calls_at_the_same_time_share_requests_and_keep_their_order(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handles = await asyncio.gather(*(publisher.publish("add", i) for i in range(2_500)))
    sizes = [len(seen.ids) for seen in manager.requests(BATCH)]
    assert (sum(sizes), sizes[0]) == (2_500, IN_A_TURN), "the first do not wait until all are prepared"
    assert len(sizes) <= 10
    assert list(manager.accepted) == [handle.id for handle in handles]
    assert [bytes(task.payload) for task in manager.accepted.values()] == [b"%d" % i for i in range(2_500)]


async def test_what_arrives_while_a_request_is_in_flight_forms_the_next_one(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    answered = asyncio.Event()
    manager.script(BATCH, held(answered))
    first = asyncio.create_task(publisher.publish("add", 0))
    await manager.until(lambda: len(manager.seen) == 1)
    others = [asyncio.create_task(publisher.publish("add", i)) for i in range(1, 50)]
    await asyncio.sleep(0)
    answered.set()
    handles = await asyncio.gather(first, *others)
    assert [len(seen.ids) for seen in manager.requests(BATCH)] == [1, 49]
    assert list(manager.accepted) == [handle.id for handle in handles]


async def test_who_comes_while_others_wait_for_their_turn_is_behind_them(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    publishes = [asyncio.create_task(publisher.publish("add", i)) for i in range(2 * IN_A_TURN + 1)]
    for _ in range(10):  # in each turn of the loop one more
        await asyncio.sleep(0)
        publishes.append(asyncio.create_task(publisher.publish("add", len(publishes))))
    handles = await asyncio.gather(*publishes)
    assert list(manager.accepted) == [handle.id for handle in handles]


async def test_a_publish_cancelled_while_it_waits_for_its_turn_is_not_sent(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    publishes = [asyncio.create_task(publisher.publish("add", i)) for i in range(IN_A_TURN + 2)]
    await asyncio.sleep(0)
    publishes[IN_A_TURN].cancel()
    await asyncio.wait(publishes)
    sent = {int(bytes(task.payload)) for task in manager.accepted.values()}
    assert sent == set(range(IN_A_TURN + 2)) - {IN_A_TURN}


async def test_large_payloads_are_cut_into_requests_by_size(manager: ScriptedManager, publisher: Publisher) -> None:
    await asyncio.gather(*(publisher.publish("add", "x" * 1_000_000) for _ in range(10)))
    assert [len(seen.ids) for seen in manager.requests(BATCH)] == [4, 4, 2]


async def test_one_bad_task_fails_alone_and_the_rest_is_sent_again_with_the_same_ids(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    kinds = ["add"] * 10 + [REFUSED_KIND] + ["add"] * 10
    answers = await asyncio.gather(
        *(publisher.publish(kind, i) for i, kind in enumerate(kinds)), return_exceptions=True
    )
    error = answers.pop(10)
    assert isinstance(error, InvalidTask)
    assert str(error) == "kind 'refused' is refused (at /kind)"
    assert error.index is None, "a place in a batch that the caller never saw"
    assert list(manager.accepted) == [handle.id for handle in answers if isinstance(handle, TaskHandle)]
    assert len(manager.accepted) == 20
    sent = [id for seen in manager.requests(BATCH)[1:] for id in seen.ids]
    assert sent == [id for id in manager.requests(BATCH)[0].ids if id in manager.accepted]


async def test_a_refusal_that_names_nobody_still_ends_at_the_one_to_blame(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    kinds = ["add"] * 100
    kinds[37] = VAGUE_KIND
    answers = await asyncio.gather(*(publisher.publish(kind) for kind in kinds), return_exceptions=True)
    assert [i for i, answer in enumerate(answers) if not isinstance(answer, TaskHandle)] == [37]
    assert list(manager.accepted) == [answer.id for answer in answers if isinstance(answer, TaskHandle)]
    assert len(manager.requests(BATCH)) < 30


async def test_many_bad_tasks_do_not_make_the_work_quadratic(manager: ScriptedManager, publisher: Publisher) -> None:
    kinds = [REFUSED_KIND if i % 2 else "add" for i in range(500)]
    answers = await asyncio.gather(*(publisher.publish(kind) for kind in kinds), return_exceptions=True)
    assert [isinstance(answer, InvalidTask) for answer in answers] == [kind == REFUSED_KIND for kind in kinds]
    assert sum(len(seen.ids) for seen in manager.requests(BATCH)) < 6 * 500


async def test_a_request_too_large_for_a_proxy_is_cut_smaller(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.script(BATCH, says(b"<html>Request Entity Too Large</html>", 413), says(b"", 413))
    await asyncio.gather(*(publisher.publish("add", i) for i in range(100)))
    assert [len(seen.ids) for seen in manager.requests(BATCH)] == [100, 50, 25, 50, 25]


async def test_an_id_taken_by_another_task_is_a_conflict_for_its_caller_alone(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    mine = new_task_id()
    await publisher.publish("add", 1, task_id=mine)
    answers = await asyncio.gather(
        *(publisher.publish("add", x, task_id=id) for x, id in ((3, None), (2, mine))), return_exceptions=True
    )
    other, conflict = answers
    assert isinstance(other, TaskHandle)
    assert isinstance(conflict, TaskConflict)
    assert conflict.task_id == mine
    assert (await publisher.publish("add", 1, task_id=mine)).id == mine, "the same task again is no conflict"


async def test_errors_of_one_request_are_each_callers_own(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.script(BATCH, says(b"what?", 418))
    errors = await asyncio.gather(*(publisher.publish("add") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, ManagerError) and error.status == 418 for error in errors)
    assert len(set(map(id, errors))) == 3


async def test_a_publish_cancelled_before_its_request_is_not_sent(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    answered = asyncio.Event()
    manager.script(BATCH, held(answered))
    in_flight = asyncio.create_task(publisher.publish("add", "in flight"))
    await manager.until(lambda: len(manager.seen) == 1)
    cancelled, kept = (asyncio.create_task(publisher.publish("add", word)) for word in ("cancelled", "kept"))
    await asyncio.sleep(0)
    cancelled.cancel()
    in_flight.cancel()
    answered.set()
    await kept
    assert [bytes(task.payload) for task in manager.accepted.values()] == [b'"in flight"', b'"kept"']


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [5, 2 * IN_A_TURN + 5])
async def test_leaving_the_publisher_lets_publishes_under_way_end(
    manager: ScriptedManager, count: int, turns: int
) -> None:
    async with Publisher(manager.url) as publisher:
        publishes = [asyncio.create_task(publisher.publish("add", i)) for i in range(count)]
        for _ in range(turns):
            await asyncio.sleep(0)
    assert len([await publish for publish in publishes]) == len(manager.accepted) == count


async def test_leaving_the_publisher_by_an_error_fails_them(manager: ScriptedManager) -> None:
    manager.script(BATCH, held(asyncio.Event()))
    waiting: list[asyncio.Task[TaskHandle[object]]] = []

    async def leave() -> None:
        async with Publisher(manager.url) as publisher:
            waiting.append(asyncio.create_task(publisher.publish("add")))
            await manager.until(lambda: len(manager.seen) == 1)
            waiting.append(asyncio.create_task(publisher.publish("add")))
            waiting.extend(asyncio.create_task(publisher.publish("add")) for _ in range(2 * IN_A_TURN))
            await asyncio.sleep(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await leave()
    for publish in waiting:
        with pytest.raises(PublisherClosed, match="was closed while this was under way"):
            await publish


async def test_a_publisher_works_only_while_it_is_open(manager: ScriptedManager) -> None:
    publisher = Publisher(manager.url)
    with pytest.raises(PublisherClosed, match="async with"):
        await publisher.publish("add")
    async with publisher:
        await publisher.publish("add")
        with pytest.raises(PublisherClosed, match="open already"):
            publisher.open()
    with pytest.raises(PublisherClosed, match="async with"):
        await publisher.publish("add")
    await publisher.close()


async def test_handles_work_only_while_their_publisher_is_open(manager: ScriptedManager) -> None:
    async with Publisher(manager.url) as publisher:
        handle = await publisher.publish("add")
    for question in (handle.state, handle.result, handle.cancel):
        with pytest.raises(PublisherClosed, match="was closed"):
            await question()


async def test_closing_ends_a_publish_many_under_way(manager: ScriptedManager) -> None:
    manager.script(BATCH, held(asyncio.Event()))
    async with Publisher(manager.url) as publisher:
        publishing = asyncio.create_task(publisher.publish_many(("add", i) for i in range(5_000)))
        await manager.until(lambda: len(manager.seen) == 1)
    with pytest.raises(PublisherClosed):
        await publishing


async def test_a_publisher_belongs_to_one_loop(publisher: Publisher) -> None:
    with pytest.raises(PublisherClosed, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(_publish(publisher)))


async def _publish(publisher: Publisher) -> UUID:
    return (await publisher.publish("add")).id


async def test_wrong_options_and_payloads_are_not_sent(manager: ScriptedManager, publisher: Publisher) -> None:
    with pytest.raises(ConfigurationError):
        await publisher.publish("add", priority=99)
    with pytest.raises(InvalidTask):
        await publisher.publish("add", object())
    with pytest.raises(ConfigurationError, match="priorty"):
        await publisher.publish("add", priorty=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a TaskCall or a kind with a payload, not both"):
        await publisher.publish(TaskCall("add", "", b"1", decode_json), {"x": 1})  # type: ignore[call-overload]
    assert manager.seen == []


async def test_the_api_key_is_sent_with_every_request(manager: ScriptedManager) -> None:
    async with Publisher(manager.url, "key-1") as publisher:
        await publisher.publish("add")
    assert manager.seen[0].headers["Authorization"] == "Bearer key-1"


async def test_batches_go_on_after_a_fault_in_their_order(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.script(BATCH, cut_after_doing)
    handles = await asyncio.gather(*(publisher.publish("add", i) for i in range(1_500)))
    assert list(manager.accepted) == [handle.id for handle in handles]
