"""/v1/workers/…: what runs in a session; drain and resume, told to sessions that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from tacoq_manager import drain
from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Delivery, Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker
from tacoq_protocol.messages import Control, Drain, Fence, Heartbeat, KindSpec, Leave, Register, Resume
from tacoq_protocol.messages import Presence as PresenceMessage
from tacoq_protocol.states import TaskState
from tacoq_protocol.topology import Binding, Queue, control_keys
from tests.manager.rows import insert_live, new_ids
from tests.manager.serving import Served
from tests.support import eventually


class Played:
    """A session that does what it is told, and says so; or, when it is `deaf`, does not."""

    def __init__(self, served: Served, queue: str = "default", host: str = "alpha") -> None:
        self.session = uuid4()
        self.queue = queue
        self.host = host
        self.deaf = False
        self.draining = False
        self.told: list[Control] = []
        self._served = served
        self._broker = MemoryBroker(served.hub, "worker")

    async def join(self) -> None:
        topology = self._served.manager.topology
        await self._broker.start()
        bindings = [Binding(topology.control.name, "", key) for key in control_keys(str(self.session), self.queue)]
        await self._broker.consume(Consumer(Queue(exclusive=True), self._hear, bindings=bindings))
        now = datetime.now(UTC)
        await self.say(Register(self.session, self.queue, 4, [KindSpec("add")], "h", self.host, 7, "0.1", now))
        await eventually(lambda: self._served.manager.sessions.is_live(self.session))

    async def beat(self, *running: Fence) -> None:
        await self.say(Heartbeat(self.session, self.queue, 4, 0, list(running), "h", "0.1", draining=self.draining))

    async def say(self, message: PresenceMessage) -> None:
        exchange = self._served.manager.topology.presence.name
        await self._broker.publish([Outgoing(exchange, "", codec.PRESENCE.name, codec.encode(message))], seconds=5)

    async def leave(self) -> None:
        await self.say(Leave(self.session, self.queue))
        await self._broker.stop()

    def _hear(self, delivery: Delivery) -> None:
        delivery.ack()
        message = codec.decode_control(delivery.format, delivery.body)
        self.told.append(message)
        if isinstance(message, Drain | Resume) and not self.deaf:
            self.draining = isinstance(message, Drain)
            done = self.leave() if self.draining and message == Drain(leave=True) else self.beat()
            self._answer = asyncio.ensure_future(done)


Join = Callable[..., Any]


@pytest.fixture
async def join(served: Served) -> AsyncIterator[Join]:
    """Makes a session that is live."""
    played: list[Played] = []

    async def joined(**about: str) -> Played:
        played.append(Played(served, **about))
        await played[-1].join()
        return played[-1]

    yield joined
    for each in played:
        await each._broker.stop()


def states(answer: Any) -> dict[str, str]:
    return {worker["session"]: worker["state"] for worker in answer["workers"]}


async def test_a_session_is_shown_with_what_runs_there(served: Served, join: Join) -> None:
    worker, other = await join(), uuid4()
    ids = new_ids(4)
    database = served.manager.database
    await insert_live(database, ids, run_at=datetime.now(UTC), state=TaskState.RUNNING)
    for id, session in zip(ids, (worker.session, None, other, other), strict=True):
        await database.settle.fetch("UPDATE tasks SET session = $2, release = 1 WHERE id = $1", id, session)
    await worker.beat(Fence(ids[1], 1))
    await eventually(lambda: served.manager.sessions.live()[0].running)
    status, shown = await served.ask("GET", f"/v1/workers/{worker.session}")
    assert (status, shown["host"], shown["state"]) == (200, "alpha", "live")
    assert [(run["id"], run["kind"]) for run in shown["running"]] == [(str(id), "add") for id in ids[:2]]
    await worker.leave()

    async def ended() -> bool:
        _, shown = await served.ask("GET", f"/v1/workers/{worker.session}")
        return bool(shown["state"] == "left")

    await eventually(ended)
    assert (await served.ask("GET", f"/v1/workers/{uuid4()}"))[0] == 404


async def test_a_session_is_drained_and_resumed(served: Served, join: Join) -> None:
    worker, other = await join(), await join()
    for action, state in (("drain", "draining"), ("drain", "draining"), ("resume", "live"), ("resume", "live")):
        status, answer = await served.ask("POST", f"/v1/workers/{worker.session}/{action}")
        assert (status, states(answer)) == (200, {str(worker.session): state})
        assert served.manager.sessions.slots("default") == (4 if state == "draining" else 8)
    assert worker.told.count(Resume()) == 2
    assert not [message for message in other.told if isinstance(message, Drain)]
    status, answer = await served.ask("POST", f"/v1/workers/{worker.session}/drain", json={"leave": True})
    assert (status, states(answer)) == (200, {str(worker.session): "left"})
    for action in ("drain", "resume"):
        status, problem = await served.ask("POST", f"/v1/workers/{worker.session}/{action}")
        assert status == 404
        assert "no live worker session" in problem["detail"]


async def test_one_that_drains_may_still_be_told_to_leave(served: Served, join: Join) -> None:
    worker = await join()
    await served.ask("POST", f"/v1/workers/{worker.session}/drain")
    status, _ = await served.ask("POST", f"/v1/workers/{worker.session}/drain", json={"leave": True})
    assert status == 200
    await eventually(lambda: not served.manager.sessions.is_live(worker.session))


async def test_sessions_are_drained_by_queue_and_host(served: Served, join: Join) -> None:
    one, two, three = await join(), await join(host="beta"), await join(queue="slow", host="beta")
    for which, expected in (
        ({"host": "beta", "queue": "default"}, {two}),
        ({"host": "beta"}, {two, three}),
        ({"queue": "default"}, {one, two}),
        ({"host": "gamma"}, set()),
    ):
        status, answer = await served.ask("POST", "/v1/workers/drain", json=which)
        assert (status, states(answer)) == (200, {str(worker.session): "draining" for worker in expected})
        status, answer = await served.ask("POST", "/v1/workers/resume", json=which)
        assert (status, states(answer)) == (200, {str(worker.session): "live" for worker in expected})


async def test_which_workers_has_to_be_said(served: Served, join: Join) -> None:
    worker = await join()
    for action, body, word in (
        ("drain", {}, "which workers is not said"),
        ("resume", {}, "which workers is not said"),
        ("drain", {"colour": "red"}, "colour"),
        ("17/drain", {}, "17"),
    ):
        status, problem = await served.ask("POST", f"/v1/workers/{action}", json=body)
        assert status == 422, problem
        assert word in problem["detail"] or "session" in problem["detail"]
    assert not worker.draining


async def test_one_that_does_not_answer_is_told_again_and_named_as_it_is(
    served: Served, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(drain, "ASK_AGAIN_SECONDS", 0.05)
    worker, deaf = await join(), await join()
    deaf.deaf = True
    status, answer = await served.ask("POST", "/v1/workers/drain", json={"queue": "default"})
    assert status == 202
    assert states(answer) == {str(worker.session): "draining", str(deaf.session): "live"}
    assert deaf.told.count(Drain()) > 1


async def test_without_a_broker_nobody_can_be_told(served: Served, join: Join) -> None:
    worker = await join()
    served.hub.block()
    status, problem = await served.ask("POST", f"/v1/workers/{worker.session}/drain")
    served.hub.unblock()
    assert status == 503
    assert "the broker is away: try again" in problem["detail"]
