"""SyncPublisher: the same core for code without a loop, from any number of threads."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import ConfigurationError, InvalidTask, ManagerUnavailable, TaskFailed, WaitTimeout
from tacoq_publisher import PublisherClosed, SyncPublisher, SyncTaskHandle, TaskState, new_task_id
from tests.publisher.scripted_manager import REFUSED_KIND, ScriptedManager, manager_in_a_thread


@pytest.fixture
def manager() -> Iterator[ScriptedManager]:
    with manager_in_a_thread(finish_at_once=True) as manager:
        yield manager


@pytest.fixture
def publisher(manager: ScriptedManager) -> Iterator[SyncPublisher]:
    with SyncPublisher(manager.url) as publisher:
        yield publisher


def publisher_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tacoq publisher"]


def test_publish_and_result(manager: ScriptedManager, publisher: SyncPublisher) -> None:
    handle = publisher.publish("add", {"x": 1}, priority=3)
    assert manager.accepted[handle.id].priority == 3
    assert handle.result(timeout=30) == {"x": 1}
    assert (handle.kind, handle.state(), handle.cancel()) == ("add", TaskState.COMPLETED, TaskState.COMPLETED)
    assert handle.wait().id == handle.view(payload=True).id == handle.id
    typed: SyncTaskHandle[int] = publisher.publish(TaskCall("add", "sums", b"41", int))
    assert typed.result() + 1 == 42
    assert publisher.handle(typed.id, decode=int).result() == 41


def test_threads_share_requests_and_each_gets_its_own_answer(
    manager: ScriptedManager, publisher: SyncPublisher
) -> None:
    def work(i: int) -> object:
        return publisher.publish("add", i).result(timeout=30)

    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(work, range(500))) == list(range(500))
    assert len(manager.requests("/tasks/batch")) < 500
    assert len(publisher_threads()) == 1


def test_publish_many_reads_its_iterable_in_the_calling_thread(
    manager: ScriptedManager, publisher: SyncPublisher
) -> None:
    threads = set()

    def calls() -> Iterator[tuple[str, object]]:
        for i in range(2_500):
            threads.add(threading.current_thread())
            yield "add", i

    handles = publisher.publish_many(calls(), priority=1)
    assert threads == {threading.current_thread()}
    assert list(manager.accepted) == [handle.id for handle in handles]
    assert [len(seen.ids) for seen in manager.requests("/tasks/batch")] == [1_000, 1_000, 500]
    assert {handle.result() for handle in publisher.as_completed(handles)} == set(range(2_500))
    assert len(manager.requests("/tasks/wait")) == 1


def test_publish_many_accepts_exactly_the_items_before_a_bad_one(
    manager: ScriptedManager, publisher: SyncPublisher
) -> None:
    with pytest.raises(InvalidTask) as caught:
        publisher.publish_many((REFUSED_KIND if i == 1_100 else "add", i) for i in range(3_000))
    assert caught.value.index == len(manager.accepted) == 1_100
    with pytest.raises(InvalidTask) as caught:
        publisher.publish_many([("add", 1), ("add", object())])
    assert (caught.value.index, len(manager.accepted)) == (1, 1_101)


def test_errors_come_out_as_from_the_asynchronous_publisher(manager: ScriptedManager, publisher: SyncPublisher) -> None:
    with pytest.raises(ConfigurationError, match="priorty"):
        publisher.publish("add", priorty=1)  # type: ignore[call-overload]
    manager.finish_at_once = False
    handle = publisher.publish("add")
    with pytest.raises(WaitTimeout):
        handle.result(timeout="50ms")
    with pytest.raises(WaitTimeout):
        list(publisher.as_completed([handle], timeout="50ms"))
    manager.views[handle.id].state = TaskState.FAILED
    with pytest.raises(TaskFailed):
        handle.result()
    with pytest.raises(ManagerUnavailable), SyncPublisher("http://127.0.0.1:9", retry_for=0) as nowhere:
        nowhere.publish("add")


def test_the_trace_context_of_the_calling_thread_travels(manager: ScriptedManager, publisher: SyncPublisher) -> None:
    context = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        handle = publisher.publish("add")
    traceparent = manager.accepted[handle.id].traceparent
    assert traceparent is not None
    assert f"{0xABC:032x}" in traceparent


def test_it_opens_with_its_first_use_and_ends_its_thread_when_closed(manager: ScriptedManager) -> None:
    publisher = SyncPublisher(manager.url)
    assert publisher_threads() == []
    handle = publisher.publish("add", 1)
    assert len(publisher_threads()) == 1
    publisher.close()
    publisher.close()
    assert publisher_threads() == []
    for use in (handle.result, handle.state, lambda: publisher.publish("add"), lambda: publisher.handle(handle.id)):
        with pytest.raises(PublisherClosed, match="was closed"):
            use()


def test_one_that_is_forgotten_ends_its_thread_but_not_before_its_handles(manager: ScriptedManager) -> None:
    handle = SyncPublisher(manager.url).publish("add", 1)
    gc.collect()
    assert handle.result() == 1
    del handle
    gc.collect()
    assert publisher_threads() == []


def test_closing_ends_waits_of_other_threads(manager: ScriptedManager) -> None:
    manager.finish_at_once = False
    publisher = SyncPublisher(manager.url)
    handle = publisher.publish("add")
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(handle.result) for _ in range(4)]
        asyncio.run_coroutine_threadsafe(manager.until(lambda: manager.open_streams == 1), manager.loop).result()
        publisher.close()
        for wait in waiting:
            with pytest.raises(PublisherClosed):
                wait.result()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also when the suite runs in the background, where a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_wait_and_drops_it(manager: ScriptedManager, publisher: SyncPublisher) -> None:
    manager.finish_at_once = False
    handle = publisher.publish("add")
    main = threading.get_ident()

    async def interrupt() -> None:
        await manager.until(lambda: manager.open_streams == 1)
        signal.pthread_kill(main, signal.SIGINT)

    asyncio.run_coroutine_threadsafe(interrupt(), manager.loop)
    with pytest.raises(KeyboardInterrupt):
        handle.result()
    asyncio.run_coroutine_threadsafe(manager.until(lambda: manager.open_streams == 0), manager.loop).result()
    assert publisher.publish("add").state() is TaskState.PENDING


def test_used_on_its_own_thread_it_says_so(publisher: SyncPublisher) -> None:
    async def inside() -> None:
        publisher.publish("add")

    with pytest.raises(PublisherClosed, match="on its own thread"):
        publisher.run(inside())


def test_made_before_a_fork_it_serves_the_child_unless_it_was_used_before(manager: ScriptedManager) -> None:
    script = f"""
import os, sys
from tacoq_publisher import PublisherClosed, SyncPublisher
fresh, used = SyncPublisher({manager.url!r}), SyncPublisher({manager.url!r})
used.publish("add", "parent")
child = os.fork()
fresh.publish("add", "child" if child == 0 else "parent")
if child == 0:
    try:
        used.publish("add", "never")
    except PublisherClosed as error:
        assert "make one per process, after the fork" in str(error)
    else:
        raise AssertionError
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
used.publish("add", "parent again")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    payloads = sorted(bytes(task.payload) for task in manager.accepted.values())
    assert payloads == [b'"child"', b'"parent again"', b'"parent"', b'"parent"']


def test_a_process_ends_without_closing(manager: ScriptedManager) -> None:
    script = (
        f"from tacoq_publisher import SyncPublisher; print(SyncPublisher({manager.url!r}).publish('add', 5).result())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


def test_an_unknown_id_is_not_asked_for_before_it_is_used(manager: ScriptedManager, publisher: SyncPublisher) -> None:
    publisher.handle(new_task_id())
    assert manager.seen == []
