"""A server and its faults in one set of words, for each adapter: what a contract test needs and nothing more."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from urllib.parse import urlsplit

import aio_pika

from tacoq_protocol.broker import Broker, Consumer, Declared, Delivery, Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tacoq_protocol.errors import BrokerUnavailable, PublishUnconfirmed
from tacoq_protocol.topology import Queue, Topology
from tests.support import eventually
from tests.support.proxy import Proxy

FORMAT = "test/1"


class World(ABC):
    """A server with the topology of one namespace. Brokers made here are stopped at the end."""

    def __init__(self, namespace: str) -> None:
        self.topology = Topology(namespace)
        self.queue = self.topology.task_queue("default")
        self._brokers: list[Broker] = []

    @abstractmethod
    def _make(self, name: str) -> Broker: ...

    @abstractmethod
    async def lose(self, name: str) -> None:
        """Cut the connections of a broker. It may connect again at once."""

    @abstractmethod
    async def go_down(self) -> None:
        """Cut all connections and take no new ones until `come_up`."""

    @abstractmethod
    async def come_up(self) -> None: ...

    @abstractmethod
    def freeze(self) -> None:
        """The server falls silent, with its connections open, until `thaw`."""

    @abstractmethod
    def lose_replies(self, name: str) -> None:
        """A broker is not answered any more, though what it sends arrives, until `thaw`."""

    @abstractmethod
    async def arrives(self, count: int) -> None:
        """Wait until so many messages of a broker that gets no replies have come to the server."""

    @abstractmethod
    def thaw(self) -> None: ...

    @abstractmethod
    async def delete_queue(self, name: str) -> None: ...

    @property
    def things(self) -> Declared:
        """All of the topology, with one task queue, `default`."""
        known = self.topology
        return Declared(
            known.exchanges,
            [self.queue, *known.fixed_queues],
            [known.task_binding("default"), *known.fixed_bindings],
        )

    async def broker(self, name: str = "one") -> Broker:
        """A broker that has declared all, not started."""
        broker = self._make(name)
        self._brokers.append(broker)
        await broker.declare(self.things)
        return broker

    async def open(self, name: str = "one") -> Broker:
        """A broker that has declared all, open."""
        broker = await self.broker(name)
        await broker.start()
        await broker.wait_open(10)
        return broker

    def tasks(self, *bodies: bytes) -> list[Outgoing]:
        """Messages to the task queue."""
        return [Outgoing(self.topology.tasks.name, "default", FORMAT, body) for body in bodies]

    async def send(self, broker: Broker, message: Outgoing) -> None:
        """Publish after a fault, of which the broker may not know yet: until it is confirmed, so perhaps twice."""
        while True:
            await broker.wait_open(30)
            try:
                return await broker.publish([message], seconds=10)
            except (BrokerUnavailable, PublishUnconfirmed):
                await asyncio.sleep(0.02)

    async def counts(self, ready: int) -> None:
        """Wait until the task queue has so many messages that no consumer holds."""
        probe = await self.open("probe")
        found: list[int | None] = []
        while found[-1:] != [ready]:
            found.append(await probe.message_count(self.queue.name))
            assert len(found) < 500, f"{ready} messages expected, found {found[-1]}"
            await asyncio.sleep(0.02)
        await probe.stop()

    async def close(self) -> None:
        for broker in self._brokers:
            await broker.stop()


class MemoryWorld(World):
    def __init__(self) -> None:
        super().__init__(f"test-{os.urandom(4).hex()}")
        self.hub = MemoryHub()

    def _make(self, name: str) -> Broker:
        return MemoryBroker(self.hub, name)

    async def lose(self, name: str) -> None:
        self.hub.disconnect(name)

    async def go_down(self) -> None:
        self.hub.go_down()

    async def come_up(self) -> None:
        self.hub.come_up()

    def freeze(self) -> None:
        self.hub.freeze()

    def lose_replies(self, name: str) -> None:
        self.hub.freeze()

    async def arrives(self, count: int) -> None:
        await eventually(lambda: sum(len(messages) for messages, _ in self.hub._late or []) == count)

    def thaw(self) -> None:
        self.hub.thaw()

    async def delete_queue(self, name: str) -> None:
        self.hub.delete_queue(name)


class RabbitWorld(World):
    """A RabbitMQ behind one proxy for each broker."""

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__(namespace)
        self.url = url
        self.proxies: dict[str, Proxy] = {}

    async def broker(self, name: str = "one") -> Broker:
        if name not in self.proxies:
            parts = urlsplit(self.url)
            self.proxies[name] = Proxy(parts.hostname or "127.0.0.1", parts.port or 5672)
            await self.proxies[name].start()
        return await super().broker(name)

    def _make(self, name: str) -> Broker:
        parts = urlsplit(self.url)
        user = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        through = parts._replace(netloc=f"{user}@127.0.0.1:{self.proxies[name].port}")
        return RabbitBroker(through.geturl(), name)

    async def lose(self, name: str) -> None:
        self.proxies[name].drop()

    async def go_down(self) -> None:
        for proxy in self.proxies.values():
            await proxy.refuse()

    async def come_up(self) -> None:
        for proxy in self.proxies.values():
            await proxy.start()

    def freeze(self) -> None:
        for proxy in self.proxies.values():
            proxy.freeze()

    def lose_replies(self, name: str) -> None:
        self.proxies[name].freeze(requests=False)

    async def arrives(self, count: int) -> None:
        await self.counts(count)

    def thaw(self) -> None:
        for proxy in self.proxies.values():
            proxy.thaw()

    async def delete_queue(self, name: str) -> None:
        connection = await aio_pika.connect(self.url)
        async with connection, connection.channel() as channel:
            await channel.queue_delete(name)

    async def close(self) -> None:
        await super().close()
        for proxy in self.proxies.values():
            await proxy.close()


class Inbox:
    """What a consumer was given, in order, and how often it was told of a loss. `acks`: each at once."""

    def __init__(self, *, acks: bool = False) -> None:
        self._acks = acks
        self.deliveries: list[Delivery] = []
        self.lost = 0

    def consumer(self, queue: Queue, prefetch: int | None = None, **more: object) -> Consumer:
        return Consumer(queue, self._keep, prefetch, on_lost=self._lose, **more)  # type: ignore[arg-type]

    def _keep(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._acks:
            delivery.ack()

    def _lose(self) -> None:
        self.lost += 1

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    async def has(self, body: bytes) -> None:
        """Wait for a message."""
        await eventually(lambda: body in self.bodies, what=f"delivery of {body!r}")

    async def lost_for_the(self, time: int) -> None:
        """Wait for so many losses."""
        await eventually(lambda: self.lost >= time, what=f"loss {time}")
        assert self.lost == time

    async def holds(self, count: int, timeout: float = 10.0) -> Sequence[Delivery]:
        """Wait for so many deliveries; more are an error."""
        await eventually(lambda: len(self.deliveries) >= count, timeout, what=f"{count} deliveries")
        assert len(self.deliveries) == count, self.bodies
        return self.deliveries
