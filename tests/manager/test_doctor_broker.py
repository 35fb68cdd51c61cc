"""The doctor on RabbitMQ: what is missing there, otherwise, lying about or blocked is told."""

from __future__ import annotations

from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from scripts.services import PrivateRabbit
from tacoq_manager.doctor import broker
from tacoq_manager.doctor.examine import examine
from tacoq_manager.doctor.findings import Level
from tacoq_manager.settings import LookSettings, Settings
from tacoq_protocol.topology import Topology
from tests.manager.looking import add_worker, bad, declare_queue, delete, manager_at, publish, told
from tests.support import eventually


async def leave(message: AbstractIncomingMessage) -> None:
    """Neither ack nor reject it."""


@pytest.mark.parametrize(
    ("told_by_it", "level"),
    [("3.10.8", Level.OK), ("4.1.0", Level.OK), ("3.9.29", Level.WARNING), ("", Level.WARNING)],
)
def test_versions_of_rabbitmq(told_by_it: str, level: Level) -> None:
    assert broker.of_version(told_by_it, "amqp://h").level is level


async def test_queues_that_are_missing_or_otherwise(settings: LookSettings) -> None:
    topology = settings.topology
    await add_worker(settings.database_url, uuid4(), queue="post")
    assert topology.task_queue_name("post") in told(await examine(settings), "task queues").says
    await declare_queue(settings, "post", **{"x-dead-letter-exchange": "elsewhere"})
    found = told(await examine(settings), "task queues")
    assert (found.level, "x-dead-letter-exchange" in found.says) == (Level.PROBLEM, True)
    await delete(settings, queue=topology.task_queue_name("post"))
    quorum = await examine(settings.model_copy(update={"task_queues": "quorum"}))
    missing, wrong = [finding for finding in quorum if finding.check == "task queues"]
    assert topology.task_queue_name("post") in missing.says
    assert "x-queue-type" in wrong.says
    assert "TACOQ_TASK_QUEUES" in (wrong.do or "")


async def test_fixed_things_that_are_missing_or_otherwise(settings: LookSettings) -> None:
    topology = settings.topology
    await delete(settings, exchange=topology.settled.name)
    found = told(await examine(settings), "topology")
    assert (found.level, topology.settled.name in found.says) == (Level.PROBLEM, True)
    await delete(settings, queue=topology.dead_queue.name)
    async with await aio_pika.connect(settings.broker_url) as link, link.channel() as channel:
        await channel.declare_queue(topology.dead_queue.name, durable=True, arguments={"x-max-length": 5})
    found = told(await examine(settings), "topology")
    assert (found.level, "x-max-length" in found.says) == (Level.PROBLEM, True)
    await delete(settings, queue=topology.reports_queue.name)
    assert told(await examine(settings), "reports").level is Level.PROBLEM


async def test_a_namespace_in_which_nobody_ever_was(settings: LookSettings) -> None:
    nobody = await examine(settings.model_copy(update={"namespace": f"{settings.namespace}-none"}))
    assert bad(nobody) == dict.fromkeys(("topology", "reports", "task queues"), Level.PROBLEM)
    assert "alarms" not in {finding.check for finding in nobody}  # there is nothing to publish to


async def test_messages_that_lie_about(settings: LookSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "LOOK_AGAIN_SECONDS", 0.1)
    topology = settings.topology
    await publish(settings, topology.dead_queue.name)
    await publish(settings, topology.task_queue_name("mail"))
    await eventually(lambda: _dead_and_left(settings))
    healthy = await examine(settings)
    assert bad(healthy) == dict.fromkeys(("dead letters", "task queues"), Level.WARNING)
    assert topology.task_queue_name("mail") in told(healthy, "task queues").says
    async with await aio_pika.connect(settings.broker_url) as link, link.channel() as channel:
        queue = await channel.get_queue(topology.task_queue_name("mail"))
        await queue.consume(leave)
        await publish(settings, topology.task_queue_name("mail"))
        assert bad(await examine(settings)) == {"dead letters": Level.WARNING}


async def _dead_and_left(settings: LookSettings) -> bool:
    found = bad(await examine(settings))
    return "dead letters" in found and "task queues" in found


async def test_reports_that_nobody_takes(
    database: str, broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = LookSettings(database_url=database, broker_url=broker_url, namespace=namespace)
    topology = Topology(namespace)
    queue = topology.reports_queue
    async with await aio_pika.connect(broker_url) as link, link.channel() as channel:
        await channel.declare_queue(queue.name, durable=True, arguments={**queue.arguments})
        found = told(await examine(looks), "reports")
        assert (found.level, "no manager consumes" in found.says) == (Level.PROBLEM, True)
        held = await channel.get_queue(queue.name)
        await channel.set_qos(prefetch_count=1)
        await held.consume(leave)
        monkeypatch.setattr(broker, "MOST_REPORTS", 1)
        for _ in range(4):
            await publish(looks, queue.name)

        async def late() -> bool:
            return told(await examine(looks), "reports").level is Level.WARNING

        await eventually(late, 30)


@pytest.mark.timeout(120)
async def test_an_alarm_of_rabbitmq(private_rabbit: PrivateRabbit, database: str, namespace: str) -> None:
    plain = Settings(database_url=database, broker_url=private_rabbit.broker_url, namespace=namespace)
    async with manager_at(plain) as url:
        looks = LookSettings(**plain.model_dump(include={"database_url", "broker_url", "namespace"}), manager_url=url)
        assert told(await examine(looks), "alarms").level is Level.OK
        private_rabbit.ctl("set_vm_memory_high_watermark", "0.0000001")

        async def alarmed() -> bool:
            found = bad(await examine(looks))
            return found.get("alarms") is Level.PROBLEM and found.get("manager") is Level.PROBLEM

        await eventually(alarmed, 30)
        private_rabbit.ctl("set_vm_memory_high_watermark", "0.6")
        await eventually(lambda: _well(looks), 30)


async def _well(settings: LookSettings) -> bool:
    return "alarms" not in bad(await examine(settings))
