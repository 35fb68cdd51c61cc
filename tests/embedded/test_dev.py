"""`tacoq dev` as a process: it runs the main job, its state survives, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from scripts.probes import free_port
from tacoq_publisher import Publisher, TaskState
from tests.support.eventually import eventually
from tests.support.spawn import TACOQ, Spawned, spawn

HELLO = """
    import asyncio, os, pathlib
    from tacoq_worker import Worker

    worker = Worker(concurrency=2)

    @worker.task
    async def add(x: int, y: int) -> int:
        return x + y

    @worker.task
    async def wait_for_file(name: str) -> str:
        pathlib.Path(name + ".started").touch()
        while not pathlib.Path(name).exists():
            await asyncio.sleep(0.02)
        return "found"
"""
HANGS = """
    import pathlib, threading

    pathlib.Path("hangs").touch()
    threading.Event().wait()
"""
TWICE = """
    @worker.task
    async def twice(x: int) -> int:
        return 2 * x
"""


class Dev:
    """A folder with a worker in it, and `tacoq dev` to be run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.write(HELLO)

    def write(self, source: str) -> None:
        (self.folder / "hello.py").write_text(dedent(source))

    async def is_noticed(self, source: str, sign: Callable[[], bool]) -> None:
        """Write until there is a sign of it: the folder may not be watched yet."""

        def noticed() -> bool:
            if sign():
                return True
            self.write(source)
            return False

        await eventually(noticed, 50, interval=5.0)  # each time begins to load it anew

    def command(self, *options: str) -> tuple[str, ...]:
        return (TACOQ, "dev", "hello:worker", "--port", str(self.port), *options)


def started_by(process: Spawned) -> list[psutil.Process]:
    """Return the processes under this one, and those in the sessions that they lead: its Postgres with its watchdog."""
    children = psutil.Process(process.pid).children(recursive=True)
    sessions = {os.getsid(child.pid) for child in children} - {os.getsid(process.pid)}
    return [other for other in psutil.process_iter() if other.pid in _pids_of(sessions)]


def _pids_of(sessions: set[int]) -> set[int]:
    found = set()
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) in sessions:
                found.add(pid)
    return found


def none_runs(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() for process in processes)


def ready(process: Spawned, times: int = 1) -> None:
    deadline = time.monotonic() + 30
    while process.wait_for_log("TacoQ runs", 30).count("TacoQ runs") < times:
        assert time.monotonic() < deadline, process.log()
        time.sleep(0.02)


async def test_main_job_and_no_process_left(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    with spawn(*dev.command(), cwd=tmp_path) as process:
        ready(process)
        async with Publisher(dev.url) as tacoq:
            handles = await tacoq.publish_many([("add", {"x": i, "y": 1}) for i in range(200)])
            assert [await handle.result(20) for handle in handles] == [i + 1 for i in range(200)]
        started = started_by(process)
        assert any("postgres" in each.name() for each in started)
        process.terminate()
        assert process.wait() == 0
        await eventually(lambda: none_runs(started))


async def test_waiting_and_running_tasks_survive_a_kill(tmp_path: Path) -> None:
    """Two run, two are queued or pending, one is scheduled when the process is killed; all end after the next start."""
    dev = Dev(tmp_path)
    gate = tmp_path / "gate"
    with spawn(*dev.command(), cwd=tmp_path) as process:
        ready(process)
        async with Publisher(dev.url) as tacoq:
            waiting = await tacoq.publish_many([("wait_for_file", {"name": str(gate)}) for _ in range(4)])
            later = await tacoq.publish("add", {"x": 1, "y": 1}, delay="1s")

            async def two_run() -> bool:
                return [await handle.state() for handle in waiting].count(TaskState.RUNNING) == 2

            await eventually(two_run)
        started = started_by(process)
        process.kill()
    await eventually(lambda: none_runs(started), what="the Postgres of a killed process ends by itself")
    gate.touch()
    with spawn(*dev.command(), cwd=tmp_path) as process:
        ready(process)
        async with Publisher(dev.url) as tacoq:
            for handle in waiting:
                assert await tacoq.handle(handle.id).result(20) == "found"
            assert await tacoq.handle(later.id).result(20) == 2
        process.terminate()
        assert process.wait() == 0


async def test_reload_keeps_the_old_code_until_the_new_one_can_be_loaded(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    with spawn(*dev.command("--reload"), cwd=tmp_path) as process:
        ready(process)
        async with Publisher(dev.url, retry_for="30s") as tacoq:
            assert await (await tacoq.publish("add", {"x": 1, "y": 1})).result(20) == 2
            process.wait_for_log("run ended")
            dev.write("import nothing_of_that_name")
            log = process.wait_for_log("the old one goes on")
            assert "No module named 'nothing_of_that_name'" in log
            assert "hello.py" in log, "the line"
            assert "importlib" not in log, "nor the rest of the way to it"
            later = await tacoq.publish("twice", {"x": 20})  # it waits for code that knows it
            assert await (await tacoq.publish("add", {"x": 1, "y": 1})).result(20) == 2
            dev.write(HANGS)
            await eventually((tmp_path / "hangs").exists)
            dev.write(HELLO.replace("x + y", "10 * (x + y)") + TWICE)
            ready(process, times=2)
            assert await (await tacoq.publish("add", {"x": 1, "y": 1})).result(20) == 20
            assert await later.result(20) == 40
        started = started_by(process)
        process.terminate()
        assert process.wait() == 0
        await eventually(lambda: none_runs(started))


@pytest.mark.timeout(120)
async def test_code_that_is_broken_at_the_start_is_waited_for(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    dev.write("import nothing_of_that_name")
    with spawn(*dev.command("--reload"), cwd=tmp_path) as process:
        assert "No module named 'nothing_of_that_name'" in process.wait_for_log("waiting for a change")
        await dev.is_noticed(HELLO, lambda: "TacoQ runs" in process.log())
        async with Publisher(dev.url, retry_for="30s") as tacoq:
            assert await (await tacoq.publish("add", {"x": 1, "y": 1})).result(20) == 2
        process.terminate()
        assert process.wait() == 0
    dev.write("import nothing_of_that_name")
    with spawn(*dev.command("--reload"), cwd=tmp_path) as process:
        process.wait_for_log("waiting for a change")
        process.terminate()
        assert process.wait() == 0


@pytest.mark.timeout(120)
async def test_import_that_hangs_holds_up_no_end(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    with spawn(*dev.command("--reload"), cwd=tmp_path) as process:
        ready(process)
        await dev.is_noticed(HANGS, (tmp_path / "hangs").exists)
        started = started_by(process)
        process.terminate()
        assert process.wait() == 0
        await eventually(lambda: none_runs(started))


async def test_second_one_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    with spawn(*dev.command(), cwd=tmp_path) as process:
        ready(process)
        with spawn(TACOQ, "dev", "hello:worker", "--port", "0", cwd=tmp_path) as second:
            assert second.wait() == 1
            assert "is in use by process" in second.log()


async def test_taken_port_is_refused_with_what_to_do(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with spawn(*dev.command(), cwd=tmp_path) as process:
        ready(process)
        (other / "hello.py").write_text(dedent(HELLO))
        with spawn(*dev.command(), cwd=other) as second:
            assert second.wait() == 1
            assert "give another --port" in second.log()


def test_wrong_target_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with spawn(TACOQ, "dev", "nothing:worker", cwd=tmp_path) as process:
        assert process.wait() == 1
        assert "there is no module 'nothing'" in process.log()
    assert not (tmp_path / ".tacoq").exists()


@pytest.mark.parametrize("kind", ["deaf", "in_a_thread"])
async def test_a_thread_that_does_not_stop_does_not_hold_up_the_end(kind: str, tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    dev.write("""
        import asyncio, time
        from tacoq_worker import Worker

        worker = Worker()

        @worker.task
        def deaf() -> None:
            time.sleep(60)

        @worker.task
        async def in_a_thread() -> None:
            await asyncio.to_thread(time.sleep, 60)
    """)
    with spawn(*dev.command(), cwd=tmp_path, env={"TACOQ_SHUTDOWN_GRACE": "100ms"}) as process:
        ready(process)
        async with Publisher(dev.url) as tacoq:
            handle = await tacoq.publish(kind)

            async def runs() -> bool:
                return await handle.state() is TaskState.RUNNING

            await eventually(runs)
        started = started_by(process)
        process.terminate()
        assert process.wait() == 0
        assert none_runs(started)


async def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    with spawn(*dev.command(), cwd=tmp_path) as process:
        ready(process)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 0


async def test_second_ctrl_c_does_not_wait_for_what_runs(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    with spawn(*dev.command(), cwd=tmp_path) as process:
        ready(process)
        async with Publisher(dev.url) as tacoq:
            await tacoq.publish("wait_for_file", {"name": str(tmp_path / "never")})
            await eventually((tmp_path / "never.started").exists)
        started = started_by(process)
        process.send(signal.SIGINT)
        process.wait_for_log("worker session drains")
        process.send(signal.SIGINT)
        assert process.wait() == 130
        await eventually(lambda: none_runs(started), what="its Postgres ends by itself")
