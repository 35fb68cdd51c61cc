"""What only a real broker does: alarms, restarts, silence, two connections, credentials."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiormq.abc import AbstractChannel, AbstractConnection

from scripts.private_servers import PrivateRabbit
from tacoq_protocol.broker import Broker, Declared, LinkState, Outgoing
from tacoq_protocol.brokers.declare import open_channel
from tacoq_protocol.brokers.faults import LinkLost
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tacoq_protocol.errors import BrokerError, BrokerUnavailable, ConfigurationError, PublishUnconfirmed
from tacoq_protocol.topology import Queue, Topology
from tests.contract.worlds import FORMAT, Inbox, RabbitWorld
from tests.support import eventually, free_port

# A silent peer is noticed after three heartbeats and three seconds, here six seconds.
SHORT_HEARTBEAT = "?heartbeat=1"


@pytest_asyncio.fixture
async def private(private_rabbit: PrivateRabbit) -> AsyncIterator[RabbitWorld]:
    """A world on a RabbitMQ that may be stopped."""
    made = RabbitWorld(private_rabbit.broker_url, f"test-{os.urandom(4).hex()}")
    yield made
    await made.close()


async def test_twenty_losses_leave_no_task_and_no_socket_behind(rabbit: RabbitWorld) -> None:
    broker, inbox = await rabbit.open(), Inbox(acks=True)
    consuming = await broker.consume(inbox.consumer(rabbit.queue))
    await _lose_and_recover(rabbit, broker, inbox, 1)
    tasks, sockets = len(asyncio.all_tasks()), _sockets()
    for number in range(2, 22):
        await _lose_and_recover(rabbit, broker, inbox, number)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks and _sockets() <= sockets, what="as many as before")
    assert consuming.active


async def _lose_and_recover(rabbit: RabbitWorld, broker: Broker, inbox: Inbox, number: int) -> None:
    await rabbit.lose("one")
    await inbox.lost_for_the(number)
    await rabbit.send(broker, *rabbit.tasks(b"%d" % number))
    await inbox.has(b"%d" % number)


def _sockets() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_stopped_broker_leaves_nothing_behind(rabbit: RabbitWorld) -> None:
    before = len(asyncio.all_tasks())
    broker = RabbitBroker(rabbit.url, "alone")
    await broker.declare(rabbit.things)
    await broker.consume(Inbox().consumer(rabbit.queue))
    await broker.start()
    await broker.wait_open(10)
    await broker.publish(rabbit.tasks(b"x"), seconds=10)
    await broker.stop()
    await broker.stop()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_stop_at_any_moment_of_a_start_ends_all(rabbit: RabbitWorld) -> None:
    before = len(asyncio.all_tasks())
    changed = Declared(queues=[Queue(rabbit.queue.name, {"x-queue-type": "classic"}, rebuildable=True)])
    for number in range(60):
        broker = RabbitBroker(rabbit.url, "hasty")
        # Every other time the queue has other arguments: the refusal closes a channel while we stop.
        await broker.declare(changed if number % 2 else rabbit.things)
        await broker.consume(Inbox().consumer(rabbit.queue))
        await broker.start()
        await asyncio.sleep(number / 1000)
        async with asyncio.timeout(3):
            await broker.stop()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_silent_link_is_noticed_and_replaced(rabbit: RabbitWorld) -> None:
    rabbit.url += SHORT_HEARTBEAT
    broker, inbox = await rabbit.open(), Inbox()
    await broker.consume(inbox.consumer(rabbit.queue))
    rabbit.freeze()
    await eventually(lambda: broker.state is LinkState.CLOSED, 15)
    rabbit.thaw()
    await rabbit.send(broker, *rabbit.tasks(b"x"))
    await inbox.has(b"x")


async def test_a_link_that_confirms_nothing_is_replaced_and_not_published_on_again(rabbit: RabbitWorld) -> None:
    broker, proxy = await rabbit.open(), rabbit.proxies["one"]
    dialled = proxy.accepted
    rabbit.lose_replies("one")
    with pytest.raises(PublishUnconfirmed):
        await broker.publish(rabbit.tasks(b"a"), seconds=0.3)
    assert broker.state is LinkState.CLOSED
    with pytest.raises(BrokerUnavailable, match="confirmed nothing"):
        await broker.publish(rabbit.tasks(b"b"), seconds=10)
    await eventually(lambda: proxy.accepted > dialled, what="a new connection")
    with pytest.raises(BrokerUnavailable):
        await broker.publish(rabbit.tasks(b"c"), seconds=10)
    await rabbit.counts(1)
    rabbit.thaw()
    await broker.wait_open(20)
    await broker.publish(rabbit.tasks(b"d"), seconds=10)
    await rabbit.counts(2)


async def test_what_there_is_room_for_is_sent_before_it_is_awaited(rabbit: RabbitWorld) -> None:
    broker = await rabbit.open()
    sent = broker.publish(rabbit.tasks(b"a"), seconds=10)
    await rabbit.counts(1)
    await sent


async def test_a_stop_on_a_silent_link_does_not_wait_for_it(rabbit: RabbitWorld) -> None:
    broker, inbox = await rabbit.open(), Inbox()
    await broker.consume(inbox.consumer(rabbit.queue))
    rabbit.freeze()
    began = time.monotonic()
    await broker.stop()
    assert time.monotonic() - began < 8
    rabbit.thaw()


async def test_under_an_alarm_publishing_is_blocked_and_all_else_goes_on(
    private: RabbitWorld, private_rabbit: PrivateRabbit
) -> None:
    broker, inbox = await private.open(), Inbox()
    states: list[LinkState] = []
    broker.on_state(states.append)
    await broker.publish(private.tasks(b"a", b"b"), seconds=10)
    consuming = await broker.consume(inbox.consumer(private.queue, prefetch=1))
    await asyncio.to_thread(private_rabbit.ctl, "set_vm_memory_high_watermark", "0.00001")
    # The broker tells a connection when it publishes next; that one publish has no confirm.
    while broker.state is LinkState.OPEN:
        with pytest.raises(BrokerError):
            await broker.publish(private.tasks(b"c"), seconds=0.5)
    assert broker.state is LinkState.BLOCKED
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="short of memory or disk"):
        await broker.publish(private.tasks(b"d"), seconds=10)
    assert time.monotonic() - began < 1
    inbox.deliveries[0].ack()
    await inbox.has(b"b")
    await broker.declare(Declared(queues=[private.topology.dead_queue]))
    assert await broker.message_count(private.topology.dead_queue.name) == 0
    assert consuming.active
    await asyncio.to_thread(private_rabbit.ctl, "set_vm_memory_high_watermark", "0.6")
    await broker.wait_open(10)
    assert states == [LinkState.BLOCKED, LinkState.OPEN]
    await broker.publish(private.tasks(b"e"), seconds=10)


@pytest.mark.timeout(120)
async def test_a_restarted_server_is_used_again(private: RabbitWorld, private_rabbit: PrivateRabbit) -> None:
    broker, inbox, reports = await private.open(), Inbox(), Inbox(acks=True)
    await broker.consume(inbox.consumer(private.queue))
    # In this order: for seconds after a queue is made, a kill -9 of RabbitMQ 3.10 makes it forget the queue.
    for number, end in enumerate([private_rabbit.stop, private_rabbit.kill], 1):
        report = b"report %d" % number
        await broker.publish([_report(private, report)], seconds=10)
        await asyncio.to_thread(end)
        await eventually(lambda: broker.state is LinkState.CLOSED)
        await asyncio.to_thread(private_rabbit.start)
        await private.send(broker, *private.tasks(b"%d" % number))
        await inbox.has(b"%d" % number)
        reading = await broker.consume(reports.consumer(private.topology.reports_queue))
        await reports.has(report)
        await reading.close()


def _report(world: RabbitWorld, body: bytes) -> Outgoing:
    name = world.topology.reports_queue.name
    return Outgoing(world.topology.reports.name, name, FORMAT, body, persistent=True)


async def test_task_queues_can_be_switched_between_classic_and_quorum(rabbit: RabbitWorld) -> None:
    broker, inbox = await rabbit.open(), Inbox()
    await broker.consume(inbox.consumer(rabbit.queue))
    quorum = Topology(rabbit.topology.namespace, "quorum")
    other = RabbitBroker(rabbit.url, "switched")
    try:
        await other.declare(
            Declared(quorum.exchanges, [quorum.task_queue("default")], [quorum.task_binding("default")])
        )
        await other.start()
        await other.wait_open(10)
        await inbox.lost_for_the(1)
        await other.publish(rabbit.tasks(b"x"), seconds=10)
    finally:
        await other.stop()


async def test_a_consumer_of_a_queue_that_cannot_be_had_does_not_hold_up_the_others(rabbit: RabbitWorld) -> None:
    broker, inbox, never = await rabbit.open(), Inbox(), Inbox()
    wrong = Queue(rabbit.topology.dead_queue.name, {"x-queue-type": "quorum"})
    refused = await broker.consume(never.consumer(wrong))
    consuming = await broker.consume(inbox.consumer(rabbit.queue))
    await rabbit.lose("one")
    await inbox.lost_for_the(1)
    await eventually(lambda: consuming.active)
    await rabbit.send(broker, *rabbit.tasks(b"x"))
    await inbox.has(b"x")
    assert not refused.active
    await refused.stop()


@pytest_asyncio.fixture
async def reopening(rabbit: RabbitWorld, monkeypatch: pytest.MonkeyPatch) -> tuple[Broker, asyncio.Event]:
    """A broker that has connected again and opens its one consumer, until the event lets it go on."""
    broker, inbox = await rabbit.open(), Inbox()
    await broker.consume(inbox.consumer(rabbit.queue))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def held_up(connection: AbstractConnection) -> AbstractChannel:
        begun.set()
        await go_on.wait()
        return await open_channel(connection)

    monkeypatch.setattr("tacoq_protocol.brokers.consuming.open_channel", held_up)
    await rabbit.lose("one")
    await begun.wait()
    return broker, go_on


async def test_a_consumer_that_comes_while_others_are_opened_again_is_opened_too(
    rabbit: RabbitWorld, reopening: tuple[Broker, asyncio.Event]
) -> None:
    broker, go_on = reopening
    consuming = await broker.consume(Inbox().consumer(rabbit.topology.dead_queue))
    go_on.set()
    await eventually(lambda: consuming.active)


async def test_what_is_declared_while_consumers_are_opened_again_is_there_when_the_link_is_open(
    rabbit: RabbitWorld, reopening: tuple[Broker, asyncio.Event]
) -> None:
    broker, go_on = reopening
    known = rabbit.topology
    await broker.declare(Declared(queues=[known.task_queue("late")], bindings=[known.task_binding("late")]))
    go_on.set()
    await broker.wait_open(10)
    await broker.publish([Outgoing(known.tasks.name, "late", FORMAT, b"x")], seconds=10)
    assert await broker.message_count(known.task_queue_name("late")) == 1


async def test_what_a_slow_server_did_not_declare_in_time_is_declared_on_the_same_connection(
    rabbit: RabbitWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, known = await rabbit.open(), rabbit.topology

    async def too_slow(connection: AbstractConnection, *_: object) -> None:
        monkeypatch.undo()
        raise LinkLost("the broker did not answer within 10 s")

    monkeypatch.setattr("tacoq_protocol.brokers.rabbitmq.declare", too_slow)
    await broker.declare(Declared(queues=[known.task_queue("late")]))

    async def is_there() -> bool:
        return await broker.message_count(known.task_queue_name("late")) == 0

    await eventually(is_there)
    assert rabbit.proxies["one"].accepted == 2, "one connection to consume, one to publish"


async def test_the_password_is_never_shown(rabbit: RabbitWorld, caplog: pytest.LogCaptureFixture) -> None:
    parts = urlsplit(rabbit.url)
    url = parts._replace(netloc=f"guest:s3cret@{parts.hostname}:{parts.port}").geturl()
    await _fails_without_showing("s3cret", url, caplog)
    await _fails_without_showing("s3cret", f"amqp://guest:s3cret@127.0.0.1:{free_port()}/", caplog)


async def _fails_without_showing(secret: str, url: str, caplog: pytest.LogCaptureFixture) -> None:
    broker = RabbitBroker(url, "secretive")
    with caplog.at_level(logging.DEBUG):
        await broker.start()
        with pytest.raises(BrokerUnavailable, match="cannot connect") as raised:
            await broker.wait_open(1)
        await broker.stop()
    assert secret not in str(raised.value)
    assert all(secret not in f"{record.getMessage()} {record.__dict__}" for record in caplog.records)


async def test_of_a_link_a_loss_is_logged_and_that_it_is_over(
    rabbit: RabbitWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """That it is there at all, each process says itself."""
    caplog.set_level(logging.INFO, "tacoq.broker")
    broker = await rabbit.open()
    assert not caplog.records
    await rabbit.go_down()
    await eventually(lambda: "broker link down" in caplog.text)
    await rabbit.come_up()
    await broker.wait_open(20)
    told = [(record.message, record.__dict__.get("link")) for record in caplog.records]
    for link in {link for message, link in told if message == "broker link down"}:
        assert told.count(("broker link open", link)) == 1


async def test_a_virtual_host_that_is_not_there_is_said_so_once(
    broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = RabbitBroker(urlsplit(broker_url)._replace(path="/nowhere").geturl(), "lost")
    await broker.start()
    try:
        with pytest.raises(BrokerUnavailable, match="/nowhere: there is no such virtual host") as raised:
            await broker.wait_open(2)
    finally:
        await broker.stop()
    assert " at 0x" not in str(raised.value)
    links = [record.__dict__["link"] for record in caplog.records if record.message == "broker link down"]
    assert sorted(links) == sorted(set(links))


@pytest.mark.parametrize("url", ["", "localhost:5672", "http://localhost/", "amqp://host:port/"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="amqp://"):
        RabbitBroker(url)
