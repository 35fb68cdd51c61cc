"""Deaf sessions: who takes nothing of what waits is asked to consume anew, and nobody else."""

from __future__ import annotations

import time

import pytest

from tacoq_manager.upkeep.deaf import LOOKS
from tacoq_protocol.messages import Heartbeat, Rebuild
from tests.stages.floor import Floor


class Scene:
    """A session with room beside a message that it does not take."""

    def __init__(self, floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.floor = floor
        self.asked: list[str] = []
        monkeypatch.setattr(floor.manager.presence, "send", self._send)

    async def _send(self, key: str, message: object) -> bool:
        assert isinstance(message, Rebuild)
        self.asked.append(key)
        return True

    async def arrange(self) -> None:
        await self.floor.worker.stop()
        self.floor.join("k", slots=2)
        await self.floor.accept()
        await self.floor.manager.dispatcher.step()

    def beat(self, *, held: int = 0, taken: int = 0, draining: bool = False) -> None:
        beat = Heartbeat(self.floor.session, "default", 2, held, [], "('k',)", "0", draining=draining, taken=taken)
        self.floor.manager.sessions.heartbeat(beat, time.monotonic())

    async def look(self, times: int) -> int:
        return sum([await self.floor.manager.deafness.step() for _ in range(times)])


@pytest.fixture
async def scene(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(floor, monkeypatch)
    await made.arrange()
    return made


async def test_session_that_takes_nothing_of_what_waits_is_asked_to_consume_anew(scene: Scene) -> None:
    assert await scene.look(LOOKS) == 0  # the first look has none before it to compare with
    assert await scene.look(1) == 1
    assert scene.asked == [f"session.{scene.floor.session}"]
    assert await scene.look(LOOKS - 1) == 0, "it is given the same time again"


async def test_session_that_takes_messages_is_not_deaf(scene: Scene) -> None:
    for taken in range(2 * LOOKS):
        scene.beat(taken=taken)
        assert await scene.look(1) == 0


async def test_session_without_room_is_not_deaf(scene: Scene) -> None:
    scene.beat(held=2)
    assert await scene.look(2 * LOOKS) == 0


async def test_session_that_drains_is_not_deaf(scene: Scene) -> None:
    scene.beat(draining=True)
    assert await scene.look(2 * LOOKS) == 0


async def test_session_beside_an_empty_queue_is_not_deaf(scene: Scene) -> None:
    topology = scene.floor.manager.topology
    await scene.look(LOOKS)
    await scene.floor.manager.broker.purge(topology.task_queue_name("default"))
    await scene.look(1)
    scene.floor.join("k", slots=3)
    await scene.floor.accept()
    await scene.floor.manager.dispatcher.step()
    assert await scene.look(LOOKS - 1) == 0
