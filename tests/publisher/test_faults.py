"""A manager that is away, busy, slow or broken: the same bytes again, until a deadline; never a task twice."""

from __future__ import annotations

import asyncio
import re
import socket
import traceback

import pytest

from tacoq_protocol.errors import ManagerError, ManagerUnavailable
from tacoq_publisher import Publisher, new_task_id
from tacoq_publisher.transport import Backoff
from tests.publisher.scripted_manager import ScriptedManager, running_manager
from tests.publisher.steps import Step, busy, cut_after_doing, cut_before_doing, held, says

BATCH = "/tasks/batch"


@pytest.mark.parametrize(
    "fault",
    [busy(), busy(after="0"), busy(500), busy(502), busy(429), cut_before_doing, cut_after_doing, says(b"", 504)],
    ids=["503", "503 with Retry-After", "500", "502", "429", "cut before", "cut after", "504 of a proxy"],
)
async def test_a_fault_is_followed_by_the_same_bytes(
    manager: ScriptedManager, publisher: Publisher, fault: Step
) -> None:
    manager.script(BATCH, fault, fault)
    handle = await publisher.publish("add", {"x": 1})
    bodies = {seen.body for seen in manager.requests(BATCH)}
    assert len(manager.requests(BATCH)) == 3
    assert len(bodies) == 1
    assert list(manager.accepted) == [handle.id]


async def test_a_slow_manager_is_asked_again_and_accepts_once(manager: ScriptedManager) -> None:
    late = asyncio.Event()
    manager.script(BATCH, held(late), held(late))
    async with Publisher(manager.url, request_timeout="200ms") as publisher:
        handle = await publisher.publish("add")
        late.set()
        assert list(manager.accepted) == [handle.id]
        assert len(manager.requests(BATCH)) >= 3
        assert len({seen.body for seen in manager.requests(BATCH)}) == 1


async def test_a_manager_that_comes_back_gets_what_was_published_meanwhile() -> None:
    async with running_manager() as manager:
        async with Publisher(manager.url, retry_for=20) as publisher:
            await publisher.publish("add", "before")
            await manager.stop()
            publishes = [asyncio.create_task(publisher.publish("add", i)) for i in range(20)]
            await asyncio.sleep(0)
            await manager.start()
            handles = await asyncio.gather(*publishes)
            assert list(manager.accepted)[1:] == [handle.id for handle in handles]


async def test_a_manager_that_stays_away_is_an_error_that_says_where_why_and_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with Publisher(url, retry_for="100ms") as publisher:
            with pytest.raises(ManagerUnavailable) as caught:
                await publisher.publish("add")
    message = str(caught.value)
    assert re.search(
        rf"the manager at {url} was not available to publish 1 task, tried for 0.1 s: cannot connect", message
    )
    assert "nothing was sent" in message
    assert "TACOQ_MANAGER_URL" in message


async def test_after_the_deadline_the_error_says_that_it_may_have_been_accepted(manager: ScriptedManager) -> None:
    manager.script(BATCH, cut_after_doing, *[busy(after="3600")] * 9)
    async with Publisher(manager.url, retry_for="200ms") as publisher:
        with pytest.raises(
            ManagerUnavailable, match=r"it answered 503 .the database is away.; it may have been done"
        ) as caught:
            await publisher.publish("add")
    assert caught.value.status == 503


async def test_without_retries_one_fault_is_enough(manager: ScriptedManager) -> None:
    manager.script(BATCH, busy())
    async with Publisher(manager.url, retry_for=0) as publisher:
        with pytest.raises(ManagerUnavailable):
            await publisher.publish("add")
        assert len(manager.seen) == 1
        await publisher.publish("add")


async def test_who_comes_late_in_an_outage_still_has_its_own_time(manager: ScriptedManager) -> None:
    answered = asyncio.Event()
    manager.script(BATCH, held(answered, then=busy()))
    async with Publisher(manager.url, retry_for="1s") as publisher:
        first = asyncio.create_task(publisher.publish("add", "first"))
        await manager.until(lambda: len(manager.seen) == 1)
        await asyncio.wait([first], timeout=1.1)  # its time is over, but its request is under way
        late = asyncio.create_task(publisher.publish("add", "late"))
        await asyncio.sleep(0)
        answered.set()
        with pytest.raises(ManagerUnavailable):
            await first
        assert (await late).id in manager.accepted


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (says(b"hello"), "but not in a way this version reads .*'hello'"),
        (says(b'{"tasks":[]}'), "0 tasks in it"),
        (says(b'{"tasks":[{"id":17}]}'), "not in a way this version reads"),
        (says(b"", 204), "answered 204"),
        (says(b"Not Found", 404), "answered 404 .* 'Not Found': is that the address of a TacoQ manager"),
        (says(b'{"title":"x","status":404,"detail":"no /v1/v1 here"}', 404), "no /v1/v1 here: is that the address"),
        (says(b"", 302, Location="http://elsewhere.example/"), "redirects are not followed"),
        (says(b"", 401), "set TACOQ_API_KEY"),
        (says(b"nginx says no", 422), "answered 422 .* 'nginx says no'"),
        (says(b'{"title":"x","status":422,"detail":"y","index":5}', 422), "index 5 of 1 tasks"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_an_error_at_once(
    manager: ScriptedManager, publisher: Publisher, fault: Step, message: str
) -> None:
    manager.script(BATCH, fault)
    with pytest.raises(ManagerError, match=message) as caught:
        await publisher.publish("add")
    assert not isinstance(caught.value, ManagerUnavailable)
    assert manager.url in str(caught.value)
    assert len(manager.seen) == 1


def test_pauses_grow_up_to_a_limit_with_jitter_and_heed_the_manager() -> None:
    longest, shortest = Backoff(draw=lambda: 1.0), Backoff(draw=lambda: 0.0)
    assert [longest.pause() for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert [shortest.pause() for _ in range(8)] == [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert longest.pause(asked=7.0) == 7.0
    assert longest.pause(asked=1.0) == 2.0


async def test_a_manager_that_is_away_is_told_without_the_way_through_the_http_client() -> None:
    async with Publisher("http://127.0.0.1:9", retry_for=0) as publisher:
        for publish in (
            publisher.publish("add"),
            publisher.publish_many([("add", None)]),
            publisher.handle(new_task_id()).view(),
        ):
            with pytest.raises(ManagerUnavailable, match="cannot connect") as caught:
                await publish
            assert "http1.py" not in "".join(traceback.format_exception(caught.value))


async def test_a_password_in_the_address_is_not_told() -> None:
    async with Publisher("http://taco:secret@127.0.0.1:9", retry_for=0) as publisher:
        with pytest.raises(ManagerUnavailable, match=r"manager at http://127\.0\.0\.1:9 was") as caught:
            await publisher.publish("add")
        assert "secret" not in str(caught.value)
