"""Stages: one that ends, wherever it runs, breaks the manager, whose process then ends and is started anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest

from tacoq_manager.manager import Manager
from tests.manager.serving import Served


def _registry(manager: Manager) -> None:
    manager.presence.registrar.only_live([])


def _notify(manager: Manager) -> None:
    manager.waiters._work.set()


def _news(manager: Manager) -> None:
    manager.news._final[uuid4()] = None
    manager.news._work.set()


def _dispatch(manager: Manager) -> None:
    manager.dispatcher.wake()


@pytest.mark.parametrize(
    ("stage", "step", "wake"),
    [
        ("registry", "presence.registrar.step", _registry),
        ("notify", "waiters._next_round", _notify),
        ("news", "news._next_message", _news),
        ("dispatch", "dispatcher.step", _dispatch),
    ],
)
async def test_stage_that_ends_breaks_the_manager(
    stage: str,
    step: str,
    wake: Callable[[Manager], None],
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    owner: object = served.manager
    *path, method = step.split(".")
    for name in path:
        owner = getattr(owner, name)
    monkeypatch.setattr(owner, method, bug)
    wake(served.manager)
    async with asyncio.timeout(10):
        await served.manager.broken.wait()
    assert [record.__dict__["stage"] for record in caplog.records if record.message == "a stage stopped"] == [
        f"tacoq {stage}"
    ]
