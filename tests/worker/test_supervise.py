"""`tacoq worker` as people run it: real processes, a real RabbitMQ, signals, crashes, reload."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.messages import (
    Completed,
    Drain,
    Failed,
    Heartbeat,
    Leave,
    Lost,
    Register,
    Returned,
    ReturnReason,
)
from tacoq_protocol.topology import Topology
from tacoq_worker.supervise import Supervisor
from tests.support.eventually import eventually
from tests.support.spawn import TACOQ, Spawned, spawn
from tests.worker.manager import FakeManager, make_release

APP = """
import asyncio, os, time
from tacoq_worker import Worker

worker = Worker(concurrency=4)

@worker.task
async def version() -> int:
    return 1

@worker.task
async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()

@worker.task
def deaf() -> None:
    time.sleep(60)

@worker.task
async def in_a_thread() -> None:
    await asyncio.to_thread(time.sleep, 60)

@worker.task
async def block(seconds: float) -> None:
    time.sleep(seconds)
"""


@pytest_asyncio.fixture
async def manager(broker_url: str, namespace: str) -> AsyncIterator[FakeManager]:
    manager = FakeManager(RabbitBroker(broker_url, "manager"), Topology(namespace), "default")
    await manager.start()
    yield manager
    await manager.broker.stop()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    file = tmp_path / "app.py"
    file.write_text(APP)
    return file


@contextmanager
def tacoq_worker(
    app: Path, broker_url: str, manager: FakeManager, *options: str, grace: str = "20s"
) -> Iterator[Spawned]:
    env = {
        "TACOQ_BROKER_URL": broker_url,
        "TACOQ_NAMESPACE": manager.topology.namespace,
        "TACOQ_SHUTDOWN_GRACE": grace,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with spawn(TACOQ, "worker", "app:worker", *options, env=env, cwd=app.parent) as process:
        yield process


def registered(manager: FakeManager) -> list[Register]:
    return [m for m in manager.presence if isinstance(m, Register)]


async def test_sigterm_drains_and_nothing_is_left(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager) as process:
        await manager.seen(Register)
        running = make_release("nap", b'{"seconds": 1.0}')
        await manager.publish(running)
        await manager.until(lambda: manager.started(running))
        process.terminate()
        await manager.seen(Leave)
        assert isinstance(await manager.outcome(running), Completed)
        assert process.wait() == 0
        assert await manager.ready_messages() == 0
        assert process.log().count("worker session connected") == 1
        assert "broker link" not in process.log()


async def test_after_the_grace_time_what_runs_is_handed_back(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager, grace="100ms") as process:
        await manager.seen(Register)
        running = make_release("nap", b'{"seconds": 60}')
        await manager.publish(running)
        await manager.until(lambda: manager.started(running))
        process.terminate()
        assert await manager.outcome(running) == Returned(running.task_id, 1, ReturnReason.SHUTDOWN)
        assert process.wait() == 0


async def test_a_second_signal_kills_and_the_loss_is_told(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager) as process:
        session = (await manager.seen(Register)).session
        running = make_release("deaf")
        await manager.publish(running)
        await manager.until(lambda: manager.started(running))
        process.send(signal.SIGINT)
        process.wait_for_log("worker session drains")
        process.send(signal.SIGINT)
        lost = await manager.seen(Lost)
        assert (lost.session, lost.detail) == (session, "was killed by SIGKILL")
        assert process.wait() == 1


async def test_a_killed_child_is_told_at_once_and_replaced(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager, "--processes", "2") as process:
        await manager.until(lambda: len(registered(manager)) == 2)
        victim = registered(manager)[0]
        os.kill(victim.pid, signal.SIGKILL)
        lost = await manager.seen(Lost)
        assert (lost.session, lost.queue, lost.detail) == (victim.session, "default", "was killed by SIGKILL")
        await manager.until(lambda: len(registered(manager)) == 3)
        assert isinstance(await manager.run("version"), Completed)
        process.terminate()
        assert process.wait() == 0


async def test_children_do_not_outlive_their_supervisor(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager) as process:
        child = psutil.Process((await manager.seen(Register)).pid)
        process.kill()
        await eventually(lambda: not child.is_running(), what="the child ends")
        await manager.seen(Leave)


async def test_slot_processes_do_not_outlive_a_killed_session(app: Path, broker_url: str, manager: FakeManager) -> None:
    app.write_text(
        APP.replace("concurrency=4", 'concurrency=2, executor="process"')
        .replace("async def", "def")
        .replace("await asyncio", "time")
    )
    with tacoq_worker(app, broker_url, manager) as process:
        session = psutil.Process((await manager.seen(Register)).pid)
        assert isinstance(await manager.run("version"), Completed)
        slots = [child for child in session.children() if "spawn_main" in " ".join(child.cmdline())]
        assert len(slots) == 2
        session.kill()
        await manager.seen(Lost)
        await eventually(lambda: not any(slot.is_running() for slot in slots), what="the slots' processes end")
        process.terminate()
        assert process.wait() == 0


async def test_a_process_drained_by_a_manager_is_not_replaced(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager) as process:
        session = (await manager.seen(Register)).session
        await manager.seen(Heartbeat)
        await manager.control(session, Drain(leave=True))
        await manager.seen(Leave)
        assert process.wait() == 0


async def test_reload_keeps_the_old_code_until_the_new_loads(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager, "--reload") as process:
        await manager.seen(Register)
        app.write_text(APP.replace("return 1", "return ("))
        process.wait_for_log("new code cannot be loaded")
        assert "SyntaxError" in process.log()
        before = await manager.run("version")
        assert isinstance(before, Completed)
        assert before.result == b"1"
        app.write_text("import threading\nprint('it hangs', flush=True)\nthreading.Event().wait()\n")
        process.wait_for_log("it hangs")
        app.write_text(APP.replace("return 1", "return 2"))
        await manager.until(lambda: len(registered(manager)) == 2)
        await manager.seen(Leave)
        after = await manager.run("version")
        assert isinstance(after, Completed)
        assert after.result == b"2"
        process.terminate()
        assert process.wait() == 0


@pytest.mark.timeout(120)
async def test_reload_waits_for_code_that_is_broken_at_the_start(
    app: Path, broker_url: str, manager: FakeManager
) -> None:
    app.write_text("import nothing_of_that_name")
    with tacoq_worker(app, broker_url, manager, "--reload") as process:
        process.wait_for_log("waiting for a change")

        def registers() -> bool:
            if not registered(manager):
                app.write_text(APP)  # perhaps it was not watched before
            return bool(registered(manager))

        await eventually(registers, 50, interval=5.0)
        process.terminate()
        assert process.wait() == 0


async def test_a_blocked_loop_beats_on(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager):
        await manager.seen(Register)
        release = make_release("block", b'{"seconds": 8}')
        await manager.publish(release)
        await manager.seen(Heartbeat, lambda beat: beat.loop_blocked)
        await manager.seen(Heartbeat, lambda beat: beat.running == [release.fence])
        assert not manager.outcomes(release)
        assert isinstance(await manager.outcome(release), Completed)


async def test_a_thread_that_does_not_stop_ends_with_its_process(
    app: Path, broker_url: str, manager: FakeManager
) -> None:
    with tacoq_worker(app, broker_url, manager, grace="100ms") as process:
        await manager.seen(Register)
        running = make_release("deaf")
        await manager.publish(running)
        await manager.until(lambda: manager.started(running))
        process.terminate()
        lost = await manager.seen(Lost)
        assert lost.detail == "ended with exit code 3"
        assert process.wait() == 1
        assert not manager.outcomes(running)


async def test_a_thread_that_a_handler_made_does_not_hold_up_the_end(
    app: Path, broker_url: str, manager: FakeManager
) -> None:
    with tacoq_worker(app, broker_url, manager, grace="100ms") as process:
        await manager.seen(Register)
        running = make_release("in_a_thread")
        await manager.publish(running)
        await manager.until(lambda: manager.started(running))
        process.terminate()
        assert await manager.outcome(running) == Returned(running.task_id, 1, ReturnReason.SHUTDOWN)
        assert process.wait(10) == 0


async def test_several_workers_run_and_each_is_replaced_by_its_own(
    app: Path, broker_url: str, manager: FakeManager
) -> None:
    (app.parent / "more.py").write_text(APP.replace("Worker(", 'Worker("slow", '))
    with tacoq_worker(app, broker_url, manager, "more:worker", "--processes", "2") as process:
        await manager.until(lambda: len(registered(manager)) == 4)
        assert sorted(r.queue for r in registered(manager)) == ["default", "default", "slow", "slow"]
        victim = next(r for r in registered(manager) if r.queue == "slow")
        os.kill(victim.pid, signal.SIGKILL)
        await manager.until(lambda: len(registered(manager)) == 5)
        assert registered(manager)[-1].queue == "slow"
        assert isinstance(await manager.run("version"), Completed)
        process.terminate()
        assert process.wait() == 0


def test_of_several_workers_the_one_that_cannot_be_loaded_says_why(app: Path, broker_url: str) -> None:
    targets = ["app:worker", "app:nope"]
    with spawn(TACOQ, "worker", *targets, env={"TACOQ_BROKER_URL": broker_url}, cwd=app.parent) as process:
        assert process.wait() == 1
        assert "app has no 'nope'; its workers: worker" in process.log()


@pytest.mark.parametrize("fault", [OSError("no more processes"), ConfigurationError("half a file")])
async def test_a_process_that_cannot_be_started_now_is_tried_again(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(
        ["app:worker"], processes=1, broker=MemoryBroker(MemoryHub()), topology=Topology("test"), grace=1.0
    )
    answers: list[Exception | None] = [fault, None]

    async def load(_: object) -> list[object]:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return []

    monkeypatch.setattr(supervisor, "_load", load)
    await supervisor._restart("app:worker", 60.0)
    assert not answers
    assert "session process not restarted" in caplog.text
    answers[:] = [fault]
    assert not await supervisor.reload()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("app", "'app' does not name a worker: write MODULE:OBJECT, as in hello:worker"),
        ("nope:worker", "there is no module 'nope'"),
        ("app:nope", "app has no 'nope'; its workers: worker"),
        ("app:os", "'app:os' is a module and no Worker; its workers: worker"),
        ("broken:worker", "broken cannot be imported: ZeroDivisionError: division by zero"),
        ("needs:worker", "needs cannot be imported: No module named 'not_installed'"),
        ("typo:worker", "    def f(:\n"),
        ("empty:worker", "'empty:worker' has no handlers: decorate a function with @worker.task"),
        ("dies:worker", "'dies:worker': loading it ended with exit code 5"),
    ],
)
def test_a_target_that_cannot_be_loaded_says_why(app: Path, broker_url: str, target: str, words: str) -> None:
    folder = app.parent
    (folder / "broken.py").write_text("x = 1 / 0\n")
    (folder / "needs.py").write_text("import not_installed\n")
    (folder / "typo.py").write_text("def f(:\n")
    (folder / "empty.py").write_text("from tacoq_worker import Worker\nworker = Worker()\n")
    (folder / "dies.py").write_text("import os\nos._exit(5)\n")
    with spawn(TACOQ, "worker", target, env={"TACOQ_BROKER_URL": broker_url}, cwd=folder) as process:
        assert process.wait() == 1
        assert "tacoq: " in process.log()
        assert words in process.log()


def test_a_wrong_setting_is_named(app: Path) -> None:
    with spawn(TACOQ, "worker", "app:worker", env={"TACOQ_BROKER_URL": "http://x"}, cwd=app.parent) as process:
        assert process.wait() == 1
        assert "tacoq: TACOQ_BROKER_URL is wrong: not the URL of" in process.log()
    with spawn(TACOQ, "worker", "app:worker", env={"TACOQ_SHUTDOWN_GRACE": "soon"}, cwd=app.parent) as process:
        assert process.wait() == 1
        assert "tacoq: TACOQ_SHUTDOWN_GRACE is wrong: 'soon' is not a duration" in process.log()


async def test_a_broker_that_comes_later_is_waited_for(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, "amqp://guest:guest@127.0.0.1:1/", manager) as process:
        process.wait_for_log("worker session started")
        process.terminate()
        assert process.wait() == 0  # nothing was held, and nobody knew it


async def test_failures_reach_the_manager_over_rabbitmq(app: Path, broker_url: str, manager: FakeManager) -> None:
    with tacoq_worker(app, broker_url, manager):
        await manager.seen(Register)
        outcome = await manager.run("nap", b'{"seconds": "long"}')
        assert isinstance(outcome, Failed)
        assert "$.seconds" in outcome.error.message


def test_a_load_error_of_any_length_is_shown(app: Path) -> None:
    app.write_text('raise RuntimeError("first" + "\\u20ac" * 300_000 + "last")')
    with spawn(TACOQ, "worker", "app:worker", cwd=app.parent) as process:
        assert process.wait() == 1
        assert "app cannot be imported: RuntimeError: first" in process.log()
        assert "characters cut" in process.log()
