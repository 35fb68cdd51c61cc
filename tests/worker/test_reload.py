"""Reload in the supervisor: the newest code runs, and nothing beside it, however slow or broken what came before is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.topology import Topology
from tacoq_worker import watching
from tacoq_worker.supervise import Supervisor, _Child
from tests.support.eventually import eventually
from tests.support.spawn import TACOQ, spawn


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor(
        ["app:worker"], processes=1, broker=MemoryBroker(MemoryHub()), topology=Topology("test"), grace=1.0
    )


@pytest.mark.parametrize("fault", [None, ConfigurationError("half a file"), OSError("no room")])
async def test_code_that_was_still_loading_when_newer_came_does_not_run(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    loaded, old, new = asyncio.Event(), Mock(), Mock()
    answers, running = [old, new], Mock()

    async def load(_: object) -> list[Any]:
        answer = answers.pop(0)
        if answer is old:
            await loaded.wait()
            if fault is not None:
                raise fault
        return [answer]

    monkeypatch.setattr(supervisor, "_load", load)
    monkeypatch.setattr(supervisor, "_go", running)
    starting = asyncio.create_task(supervisor._start(["app:worker"]))
    await eventually(lambda: answers == [new])
    assert await supervisor.reload()
    loaded.set()
    await starting
    running.assert_called_once_with(new)
    assert old.drop.called is (fault is None)


async def test_newer_code_ends_the_wait_for_what_hangs(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first start, or where a process is started again after a crash."""
    monkeypatch.chdir(tmp_path)
    app = tmp_path / "app.py"
    app.write_text("import pathlib, threading\npathlib.Path('hangs').touch()\nthreading.Event().wait()")
    running: list[_Child] = []
    monkeypatch.setattr(supervisor, "_go", running.append)
    starting = asyncio.create_task(supervisor._start(["app:worker"]))
    await eventually((tmp_path / "hangs").exists)
    app.write_text("from tacoq_worker import Worker\nworker = Worker()\n@worker.task\ndef add() -> None: ...\n")
    assert await supervisor.reload()
    await asyncio.wait_for(starting, 20)
    assert not supervisor._loading
    (child,) = running
    child.pipe.close()
    assert await child.process.wait() == 0


def test_code_that_cannot_be_loaded_is_told_whatever_threads_it_began(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\nraise ValueError('no')\n"
    )
    with spawn(TACOQ, "worker", "app:worker", cwd=tmp_path) as process:
        assert process.wait() == 1
        assert "app cannot be imported: ValueError: no" in process.log()


async def test_reloading_goes_on_after_errors_nobody_foresaw(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watches = 0

    async def awatch(*_: object, **__: object) -> AsyncIterator[set[tuple[int, str]]]:
        nonlocal watches
        watches += 1
        if watches == 1:
            raise RuntimeError("the folder is gone")
        for number in (1, 2):
            yield {(1, str(Path.cwd() / f"changed{number}.py"))}
        await asyncio.Event().wait()

    loads: list[object] = []

    async def load(targets: object) -> list[_Child]:
        loads.append(targets)
        if len(loads) == 1:
            raise RuntimeError("a bug")
        return []

    monkeypatch.setattr(watching, "awatch", awatch)
    monkeypatch.setattr(supervisor, "_load", load)
    reloading = asyncio.create_task(supervisor._reload_on_change())
    await eventually(lambda: len(loads) == 2)
    assert not reloading.done()
    reloading.cancel()
    assert "files cannot be watched now" in caplog.text
    assert "new code cannot be loaded; the old goes on" in caplog.text
