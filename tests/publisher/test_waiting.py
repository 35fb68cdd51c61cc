"""Results are pushed over streams that all waits share; streams that end or break are opened again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from uuid import UUID

import pytest

from tacoq_protocol.errors import ManagerError, ManagerUnavailable, WaitTimeout
from tacoq_publisher import Publisher, PublisherClosed, TaskHandle, new_task_id, waiting
from tests.publisher.scripted_manager import ScriptedManager, stream_cut_after
from tests.publisher.steps import busy, held, says

WAIT = "/tasks/wait"


async def published(publisher: Publisher, count: int) -> list[TaskHandle[object]]:
    return await publisher.publish_many(("add", i) for i in range(count))


def gathered(handles: Iterable[TaskHandle[object]]) -> asyncio.Future[list[object]]:
    return asyncio.gather(*(handle.result() for handle in handles))


async def test_a_lone_result_costs_one_request(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish("add", 1)
    result = asyncio.create_task(handle.result())
    await manager.until(lambda: manager.open_streams == 1)
    await manager.finish(handle.id, result=b'{"sum":3}')
    assert await result == {"sum": 3}
    assert len(manager.requests(WAIT)) == 1
    assert await handle.result() == {"sum": 3}
    assert len(manager.requests(WAIT)) == 1, "a result that was told is kept"


async def test_ten_thousand_results_at_once_share_one_request(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.finish_at_once = True
    handles = await published(publisher, 10_000)
    assert await gathered(handles) == list(range(10_000))
    assert len(manager.requests(WAIT)) == 1


async def test_waits_that_come_while_a_stream_is_opened_share_the_next_one(
    manager: ScriptedManager, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "GATHER_SECONDS", 60)
    opened = asyncio.Event()
    manager.script(WAIT, held(opened))
    handles = await published(publisher, 30)
    first = asyncio.create_task(handles[0].result())
    await manager.until(lambda: len(manager.requests(WAIT)) == 1)
    others = gathered(handles[1:])
    await asyncio.sleep(0)
    opened.set()
    await manager.until(lambda: manager.open_streams == 2)
    for handle in reversed(handles):
        await manager.finish(handle.id)
    await asyncio.gather(first, others)
    assert [len(seen.waited_for) for seen in manager.requests(WAIT)] == [1, 29]


async def test_a_stream_that_says_nothing_yet_does_not_hold_up_the_next_one(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    silent = asyncio.Event()
    manager.script(WAIT, held(silent))
    slow, quick = await published(publisher, 2)
    waiting_for_slow = asyncio.create_task(slow.result())
    await manager.until(lambda: len(manager.requests(WAIT)) == 1)
    await manager.finish(quick.id, result=b"1")
    assert await quick.result() == 1
    await manager.finish(slow.id, result=b"2")
    silent.set()
    assert await waiting_for_slow == 2


async def test_newcomers_take_over_small_streams_where_there_would_be_too_many(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handles = await published(publisher, 20)
    results = []
    for count, handle in enumerate(handles, 1):
        results.append(asyncio.create_task(handle.result()))
        await manager.until(lambda count=count: len(manager.requests(WAIT)) == count)  # type: ignore[misc]
    await manager.until(lambda: manager.open_streams <= waiting.MAX_STREAMS)
    for handle in handles:
        await manager.finish(handle.id)
    await asyncio.gather(*results)
    assert sum(len(seen.waited_for) for seen in manager.requests(WAIT)) < 20 * 20 / 2


async def test_many_waits_are_cut_into_requests_of_what_the_manager_takes(
    manager: ScriptedManager, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_WAIT_TASKS", 10)
    manager.finish_at_once = True
    handles = await published(publisher, 35)
    assert await gathered(handles) == list(range(35))
    assert [len(seen.waited_for) for seen in manager.requests(WAIT)] == [10, 10, 10, 5]


async def test_a_stream_that_ends_in_time_is_opened_again_for_what_is_left(
    manager: ScriptedManager, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "STREAM_SECONDS", 0.1)
    told, late = await published(publisher, 2)
    results = gathered([told, late])
    await manager.finish(told.id)
    await manager.until(lambda: len(manager.requests(WAIT)) >= 3)
    await manager.finish(late.id)
    await results
    assert {frozenset(seen.waited_for) for seen in manager.requests(WAIT)[1:]} == {frozenset([late.id])}


async def test_a_stream_cut_in_the_middle_of_a_line_is_opened_again_for_what_it_did_not_tell(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    manager.finish_at_once = True
    handles = await published(publisher, 10)
    manager.script(WAIT, stream_cut_after(4), stream_cut_after(0))
    assert await gathered(handles) == list(range(10))
    assert [len(seen.waited_for) for seen in manager.requests(WAIT)] == [10, 6, 6]


@pytest.mark.parametrize("status", [500, 503])
async def test_a_busy_manager_is_asked_again(manager: ScriptedManager, publisher: Publisher, status: int) -> None:
    manager.finish_at_once = True
    handle = await publisher.publish("add", 5)
    manager.script(WAIT, busy(status, after="0"), busy(status))
    assert await handle.result() == 5
    assert len(manager.requests(WAIT)) == 3


async def test_waits_go_on_when_the_manager_comes_back(manager: ScriptedManager, publisher: Publisher) -> None:
    handles = await published(publisher, 5)
    results = gathered(handles)
    await manager.until(lambda: manager.open_streams == 1)
    await manager.stop()
    for handle in handles:
        await manager.finish(handle.id, result=b"1")
    await manager.start()
    assert await results == [1] * 5


async def test_a_manager_that_stays_away_ends_the_waits_and_says_that_the_tasks_go_on(
    manager: ScriptedManager,
) -> None:
    async with Publisher(manager.url, retry_for="300ms") as publisher:
        handles = await published(publisher, 3)
        results = asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
        await manager.until(lambda: manager.open_streams == 1)
        await manager.stop()
        errors = await results
        assert all(isinstance(error, ManagerUnavailable) for error in errors)
        assert len(set(map(id, errors))) == 3
        assert "to wait for tasks" in str(errors[0])
        assert "the tasks go on, wait again with the same handles" in str(errors[0])
        await manager.start()
        await manager.finish(handles[0].id, result=b"7")
        assert await handles[0].result() == 7


async def test_a_timeout_says_that_the_task_goes_on_and_the_handle_can_wait_again(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handle = await publisher.publish("add")
    with pytest.raises(WaitTimeout, match=r"was not final after 0\.05 s; it goes on"):
        await handle.result(timeout="50ms")
    await manager.finish(handle.id, result=b"2")
    assert await handle.result(timeout=30) == 2


async def test_a_timeout_in_an_outage_tells_of_the_fault(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish("add")
    await manager.stop()
    with pytest.raises(WaitTimeout) as caught:
        await handle.result(timeout="300ms")
    assert "cannot connect" in str(caught.value.__cause__)


async def test_a_stream_that_nobody_needs_any_more_is_closed(manager: ScriptedManager, publisher: Publisher) -> None:
    handles = await published(publisher, 3)
    results = [asyncio.create_task(handle.result()) for handle in handles]
    await manager.until(lambda: manager.open_streams == 1)
    for result in results:
        result.cancel()
    await manager.until(lambda: manager.open_streams == 0)


async def test_a_cancelled_wait_is_not_asked_for_again(manager: ScriptedManager, publisher: Publisher) -> None:
    kept, dropped = await published(publisher, 2)
    results = [asyncio.create_task(handle.result()) for handle in (kept, dropped)]
    await manager.until(lambda: manager.open_streams == 1)
    results[1].cancel()
    await asyncio.wait([results[1]])
    await manager.stop()
    await manager.start()
    await manager.until(lambda: manager.open_streams == 1)
    assert manager.requests(WAIT)[-1].waited_for == {kept.id}
    await manager.finish(kept.id)
    await results[0]


async def test_a_wait_cancelled_before_its_stream_is_never_asked_for(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handle = await publisher.publish("add")
    result = asyncio.create_task(handle.result())
    await asyncio.sleep(0)
    result.cancel()
    await asyncio.wait([result])
    await publisher.publish("add")
    assert manager.requests(WAIT) == []


async def test_a_wait_cancelled_while_its_stream_is_about_to_be_opened_leaves_nothing_behind(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    """Cancelled at each of the first steps, also before the stream's reader has begun."""
    for steps in range(6):
        handle = await publisher.publish("add")
        result = asyncio.create_task(handle.result())
        for _ in range(steps):
            await asyncio.sleep(0)
        result.cancel()
        await asyncio.wait([result])
    manager.finish_at_once = True
    handles = await published(publisher, 5)
    assert await gathered(handles) == list(range(5))
    await manager.until(lambda: manager.open_streams == 0)


async def test_a_wait_cancelled_during_a_pause_is_not_asked_for(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish("add", 1)
    manager.script(WAIT, busy())
    result = asyncio.create_task(handle.result())
    await manager.until(lambda: len(manager.requests(WAIT)) == 1)
    result.cancel()
    await asyncio.wait([result])
    await manager.finish(handle.id, result=b"1")
    assert await handle.result() == 1
    assert all(seen.waited_for == {handle.id} for seen in manager.requests(WAIT))


async def test_a_manager_that_asks_for_more_time_than_there_is_gets_what_there_is(manager: ScriptedManager) -> None:
    async with Publisher(manager.url, retry_for="300ms") as publisher:
        handle = await publisher.publish("add", 1)
        manager.script(WAIT, *[busy(after="3600")] * 3)
        with pytest.raises(ManagerUnavailable, match="it answered 503"):
            await handle.result()
        assert len(manager.requests(WAIT)) == 2


async def test_two_waits_for_one_task_are_one_for_the_manager(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish("add")
    again = publisher.handle(handle.id)
    results = [asyncio.create_task(h.result()) for h in (handle, again, handle)]
    await manager.until(lambda: manager.open_streams == 1)
    results[0].cancel()
    await manager.finish(handle.id, result=b"4")
    assert [await result for result in results[1:]] == [4, 4]
    assert len(manager.requests(WAIT)) == 1


async def test_a_wait_taken_up_again_is_told_by_either_stream(manager: ScriptedManager, publisher: Publisher) -> None:
    handle, other = await published(publisher, 2)
    results = gathered([other])
    dropped = asyncio.create_task(handle.result())
    await manager.until(lambda: manager.open_streams == 1)
    dropped.cancel()
    await asyncio.wait([dropped])
    again = asyncio.create_task(handle.result())
    await manager.until(lambda: manager.open_streams == 2)
    await manager.finish(handle.id, result=b"1")
    assert await again == 1
    await manager.finish(other.id, result=b"2")
    assert await results == [2]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"<html>\n", 200, "not in a way this version reads"),
        (b'{"id":"x"}\n', 200, "not in a way this version reads"),
        (b"nope", 401, "set TACOQ_API_KEY"),
        (b"nope", 404, "is that the address of a TacoQ manager"),
    ],
)
async def test_a_stream_that_makes_no_sense_is_an_error_at_once(
    manager: ScriptedManager, publisher: Publisher, body: bytes, status: int, message: str
) -> None:
    handle = await publisher.publish("add")
    manager.script(WAIT, says(body, status))
    with pytest.raises(ManagerError, match=message) as caught:
        await handle.result()
    assert not isinstance(caught.value, ManagerUnavailable)


async def test_streams_that_end_at_once_are_not_asked_for_in_a_hot_loop(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handle = await publisher.publish("add")
    manager.script(WAIT, *[says(b"\n")] * 1_000)
    with pytest.raises(WaitTimeout) as caught:
        await handle.result(timeout="500ms")
    assert "ended too early" in str(caught.value.__cause__)
    assert len(manager.requests(WAIT)) < 20


async def test_a_line_of_a_task_that_is_not_final_changes_nothing(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handle = await publisher.publish("add", 1)
    early = (
        b'{"id":"%s","kind":"add","queue":"q","state":"running","created_at":"2030-01-01T00:00:00Z",'
        % str(handle.id).encode()
    )
    manager.script(WAIT, says(early + b'"run_at":"2030-01-01T00:00:00Z"}\n'))
    result = asyncio.create_task(handle.result())
    await manager.until(lambda: manager.open_streams == 1)
    await manager.finish(handle.id, result=b"1")
    assert await result == 1


async def test_a_result_of_a_mebibyte_arrives_whole(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.finish_at_once = True
    text = "ä" * 500_000
    handles = [await publisher.publish("add", text + str(i)) for i in range(3)]
    assert await gathered(handles) == [text + str(i) for i in range(3)]


async def test_closing_the_publisher_ends_the_waits(manager: ScriptedManager) -> None:
    async with Publisher(manager.url) as publisher:
        handle = await publisher.publish("add")
        result = asyncio.create_task(handle.result())
        await manager.until(lambda: manager.open_streams == 1)
    with pytest.raises(PublisherClosed):
        await result
    await manager.until(lambda: manager.open_streams == 0)


async def test_as_completed_gives_each_handle_once_as_its_task_ends(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handles = await published(publisher, 4)
    await manager.finish(handles[2].id)
    await handles[2].wait()
    order = [handles[i].id for i in (2, 3, 1, 0)]
    ended: list[UUID] = []
    async for handle in publisher.as_completed([*handles, handles[0]]):
        assert handle.ended
        ended.append(handle.id)
        if len(ended) < 4:
            await manager.finish(order[len(ended)])
    assert ended == order
    assert len(manager.requests(WAIT)) == 2


async def test_as_completed_of_many_costs_one_request(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.finish_at_once = True
    handles = await published(publisher, 3_000)
    results = {await handle.result() async for handle in publisher.as_completed(handles)}
    assert results == set(range(3_000))
    assert len(manager.requests(WAIT)) == 1


async def test_as_completed_has_a_timeout_over_all(manager: ScriptedManager, publisher: Publisher) -> None:
    first, second = await published(publisher, 2)
    await manager.finish(first.id)
    completed = publisher.as_completed([first, second], timeout="200ms")
    assert await anext(completed) is first
    with pytest.raises(WaitTimeout) as caught:
        await anext(completed)
    assert caught.value.task_id == second.id
    await manager.until(lambda: manager.open_streams == 0)


async def test_leaving_as_completed_drops_its_waits(manager: ScriptedManager, publisher: Publisher) -> None:
    first, second = await published(publisher, 2)
    await manager.finish(first.id)
    async for handle in publisher.as_completed([first, second]):
        assert handle is first
        break
    await manager.until(lambda: manager.open_streams == 0)


async def test_as_completed_gives_unknown_tasks_too(publisher: Publisher) -> None:
    unknown = publisher.handle(new_task_id())
    assert [handle async for handle in publisher.as_completed([unknown])] == [unknown]
