"""Exchanges, queues and their arguments as data, under a namespace.

Arguments are written out and never left to the broker's version: RabbitMQ 4 drops a message after 20 deliveries where
nothing is said, and a queue declared again with other arguments is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from tacoq_protocol.errors import ConfigurationError

ArgumentValue = str | int | bool
DELIVERY_LIMIT = 1_000_000
NAMESPACE_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,49}"  # a dot separates parts


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: Literal["direct", "topic", "fanout"]


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue.

    An exclusive one has no name of its own (the server makes one at each connect) and dies with its connection.

    `rebuildable`: Postgres can rebuild what it holds, so it may be deleted and declared anew when its arguments
    changed.
    """

    name: str = ""
    arguments: dict[str, ArgumentValue] = field(default_factory=dict)
    exclusive: bool = False
    rebuildable: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """Messages of `exchange` with this routing key (pattern) go to `queue`."""

    exchange: str
    queue: str
    routing_key: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """All names under one namespace."""

    namespace: str = "tacoq"
    task_queues: Literal["classic", "quorum"] = "classic"

    def __post_init__(self) -> None:
        """Raises ConfigurationError when the namespace cannot begin the name of an exchange or a queue."""
        if not re.fullmatch(NAMESPACE_PATTERN, self.namespace):
            raise ConfigurationError(
                f"namespace = {self.namespace!r} (TACOQ_NAMESPACE) is no prefix for names: "
                "give up to 50 letters, digits, - and _, not beginning with -"
            )

    def _name(self, part: str) -> str:
        return f"{self.namespace}.{part}"

    @property
    def tasks(self) -> Exchange:
        return Exchange(self._name("tasks"), "direct")

    @property
    def reports(self) -> Exchange:
        return Exchange(self._name("reports"), "direct")

    @property
    def presence(self) -> Exchange:
        return Exchange(self._name("presence"), "fanout")

    @property
    def control(self) -> Exchange:
        return Exchange(self._name("control"), "topic")

    @property
    def settled(self) -> Exchange:
        return Exchange(self._name("settled"), "fanout")

    @property
    def dead(self) -> Exchange:
        return Exchange(self._name("dead"), "fanout")

    @property
    def exchanges(self) -> list[Exchange]:
        return [self.tasks, self.reports, self.presence, self.control, self.settled, self.dead]

    @property
    def reports_queue(self) -> Queue:
        """Outcomes on their way to Postgres: the one thing here that Postgres cannot rebuild, so a quorum queue."""
        return Queue(self._name("reports"), self._arguments("quorum"))

    @property
    def dead_queue(self) -> Queue:
        """Messages that nobody could read or apply, for people to look at."""
        return Queue(self._name("dead"), {"x-queue-type": "classic"})

    def task_queue(self, queue: str) -> Queue:
        """Releases of one queue on their way to a worker."""
        return Queue(self.task_queue_name(queue), self._arguments(self.task_queues), rebuildable=True)

    def task_queue_name(self, queue: str) -> str:
        return self._name(f"queue.{queue}")

    def _arguments(self, type: Literal["classic", "quorum"]) -> dict[str, ArgumentValue]:
        arguments: dict[str, ArgumentValue] = {"x-queue-type": type, "x-dead-letter-exchange": self.dead.name}
        if type == "quorum":
            arguments["x-delivery-limit"] = DELIVERY_LIMIT
        return arguments

    @property
    def fixed_queues(self) -> list[Queue]:
        return [self.reports_queue, self.dead_queue]

    @property
    def fixed_bindings(self) -> list[Binding]:
        return [
            Binding(self.reports.name, self.reports_queue.name, self.reports_queue.name),
            Binding(self.dead.name, self.dead_queue.name),
        ]

    def task_binding(self, queue: str) -> Binding:
        return Binding(self.tasks.name, self.task_queue_name(queue), queue)


def control_keys(session: str, queue: str) -> list[str]:
    """Routing keys on the control exchange that reach one session: its own, its queue's, everybody's."""
    return [f"session.{session}", f"queue.{queue}", "all"]
