"""publish_many(): long iterables in full requests, in order; on an error exactly the items before it are accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import ConfigurationError, InvalidTask, ManagerError, ManagerUnavailable
from tacoq_publisher import Publisher, PublishInterrupted
from tacoq_publisher.newtask import decode_json
from tests.publisher.scripted_manager import REFUSED_KIND, ScriptedManager
from tests.publisher.steps import as_usual, busy, cut_after_doing, held, says

BATCH = "/tasks/batch"


def payloads(manager: ScriptedManager) -> list[int]:
    return [int(bytes(task.payload)) for task in manager.accepted.values()]


async def test_calls_and_pairs_are_accepted_in_order_in_full_requests(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    def calls() -> Iterator[TaskCall[int] | tuple[str, object]]:
        for i in range(2_500):
            yield TaskCall("add", "sums", b"%d" % i, int) if i % 2 else ("add", i)

    handles = await publisher.publish_many(calls(), priority=3)
    assert [len(seen.ids) for seen in manager.requests(BATCH)] == [1_000, 1_000, 500]
    assert payloads(manager) == list(range(2_500))
    assert list(manager.accepted) == [handle.id for handle in handles]
    assert {task.priority for task in manager.accepted.values()} == {3}
    assert [task.queue for task in list(manager.accepted.values())[:2]] == [None, "sums"]


async def test_an_asynchronous_iterable_does_as_well(manager: ScriptedManager, publisher: Publisher) -> None:
    async def calls() -> AsyncIterator[tuple[str, object]]:
        for i in range(1_100):
            await asyncio.sleep(0)
            yield "add", i

    await publisher.publish_many(calls())
    assert payloads(manager) == list(range(1_100))


async def test_nothing_costs_no_request(manager: ScriptedManager, publisher: Publisher) -> None:
    assert await publisher.publish_many([]) == []
    assert manager.seen == []


async def test_large_payloads_are_cut_by_size(manager: ScriptedManager, publisher: Publisher) -> None:
    await publisher.publish_many(("add", "x" * 1_000_000) for _ in range(12))
    assert [len(seen.ids) for seen in manager.requests(BATCH)] == [5, 5, 2]


async def test_the_next_request_is_filled_while_one_is_in_flight(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    answered = asyncio.Event()
    manager.script(BATCH, held(answered))
    taken = 0

    def calls() -> Iterator[tuple[str, object]]:
        nonlocal taken
        for taken in range(5_000):
            yield "add", taken

    publishing = asyncio.create_task(publisher.publish_many(calls()))
    await manager.until(lambda: len(manager.seen) == 1)
    assert taken == 1_999, "one request in flight, the next one full, and no more is taken"
    answered.set()
    assert len(await publishing) == 5_000
    assert payloads(manager) == list(range(5_000))


async def test_a_refused_item_is_named_and_exactly_those_before_it_are_accepted(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    with pytest.raises(InvalidTask, match=r"^kind 'refused' is refused \(at /kind\)$") as caught:
        await publisher.publish_many((REFUSED_KIND if i in (1_700, 1_900, 2_100) else "add", i) for i in range(3_000))
    assert caught.value.index == 1_700
    assert payloads(manager) == list(range(1_700))


async def test_an_item_that_cannot_be_sent_is_named_and_exactly_those_before_it_are_accepted(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    with pytest.raises(InvalidTask, match="payload for 'add'") as caught:
        await publisher.publish_many(("add", object() if i == 1_234 else i) for i in range(3_000))
    assert caught.value.index == 1_234
    assert payloads(manager) == list(range(1_234))


async def test_the_first_of_two_bad_items_is_named(manager: ScriptedManager, publisher: Publisher) -> None:
    calls: list[tuple[str, object]] = [("add", i) for i in range(1_500)]
    calls[10] = (REFUSED_KIND, 10)
    calls[1_200] = ("add", object())
    with pytest.raises(InvalidTask) as caught:
        await publisher.publish_many(calls)
    assert caught.value.index == 10
    assert payloads(manager) == list(range(10))


@pytest.mark.parametrize("item", [7, "add", ("add",), ("add", 1, 2), ["add", 1]])
async def test_an_item_of_another_shape_is_named(publisher: Publisher, item: object) -> None:
    with pytest.raises(InvalidTask, match="is neither a TaskCall nor a") as caught:
        await publisher.publish_many([("add", 1), item])  # type: ignore[arg-type]
    assert caught.value.index == 1


async def test_an_error_of_the_iterable_comes_out_after_what_it_gave_is_accepted(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    def calls() -> Iterator[tuple[str, object]]:
        for i in range(1_500):
            yield "add", i
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await publisher.publish_many(calls())
    assert payloads(manager) == list(range(1_500))


async def test_a_wrong_option_is_found_before_anything_is_taken(manager: ScriptedManager, publisher: Publisher) -> None:
    calls = iter([("add", 1)])
    with pytest.raises(ConfigurationError, match="priority"):
        await publisher.publish_many(calls, priority=11)
    with pytest.raises(ConfigurationError, match="task_id"):
        await publisher.publish_many(calls, task_id=None)  # type: ignore[call-overload]
    assert next(calls) == ("add", 1)
    assert manager.seen == []


async def test_faults_in_the_middle_lose_and_double_nothing(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.script(BATCH, cut_after_doing, busy(after="0"), busy(500))
    await publisher.publish_many(("add", i) for i in range(2_000))
    assert payloads(manager) == list(range(2_000))


async def test_a_manager_that_goes_away_leaves_an_exact_account(manager: ScriptedManager) -> None:
    async with Publisher(manager.url, retry_for="100ms") as publisher:
        manager.script(BATCH, as_usual, cut_after_doing, *[busy()] * 99)
        with pytest.raises(PublishInterrupted, match=r"first 1000 items .* are accepted, 1000 more may be") as caught:
            await publisher.publish_many(("add", i) for i in range(4_000))
        assert isinstance(caught.value, ManagerUnavailable)
        assert [handle.id for handle in caught.value.accepted] == list(manager.accepted)[:1_000]
        assert [handle.id for handle in caught.value.unknown] == list(manager.accepted)[1_000:2_000]


async def test_another_error_in_the_middle_comes_out_as_it_is(manager: ScriptedManager, publisher: Publisher) -> None:
    manager.script(BATCH, as_usual, says(b"", 403))
    with pytest.raises(ManagerError, match="answered 403"):
        await publisher.publish_many(("add", i) for i in range(4_000))
    assert payloads(manager) == list(range(1_000))


async def test_cancelled_it_sends_nothing_more(manager: ScriptedManager, publisher: Publisher) -> None:
    answered = asyncio.Event()
    manager.script(BATCH, held(answered))
    publishing = asyncio.create_task(publisher.publish_many(("add", i) for i in range(3_000)))
    await manager.until(lambda: len(manager.seen) == 1)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    answered.set()
    await publisher.publish(TaskCall("add", "", b"-1", decode_json))
    assert payloads(manager)[-1] == -1
    assert len(manager.requests(BATCH)) == 2
