"""What the machine plays: RabbitMQ, which keeps what is published until it is taken, and worker sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from uuid import UUID, uuid4

from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Consuming, Declared, LinkState, Outgoing, QueueCounts
from tacoq_protocol.errors import BrokerUnavailable, PublishUnconfirmed
from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.messages import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    Fence,
    KindSpec,
    Release,
    Report,
    Reports,
    Returned,
    ReturnReason,
    Snoozed,
)
from tacoq_protocol.topology import Topology

QUEUE = "default"
FEW = 2  # of a kind at once
QUICK_SECONDS = 0.001
SPECS = {
    spec.name: spec
    for spec in (
        KindSpec("a"),
        KindSpec("b", max_attempts=2),
        KindSpec("once", on_lost="fail"),
        KindSpec("few", concurrency=FEW, max_per_key=1),
        KindSpec("quick"),  # its runs are short
        KindSpec("new"),  # not every session knows it
    )
}


class Fate(Enum):
    """What becomes of tasks that a claim, or their accept, releases."""

    CONFIRMED = "confirmed"
    NOT_SENT = "the broker is away"
    NOT_STORED = "not confirmed, and the broker has nothing"
    STORED = "not confirmed, and the broker has it all the same"
    UNANSWERED = "Postgres committed the statement, and its answer is lost"
    KILLED = "the manager is killed between the statement and the publish"


class Killed(Exception):
    """The manager ends here."""


@dataclass(eq=False)
class Message:
    """A message of releases with the broker, or with a session that has not acked it."""

    releases: list[Release]
    redelivered: bool = False


@dataclass(eq=False)
class Held:
    """A release in a session's hands."""

    release: Release
    message: Message
    runs: bool = False
    stopping: bool = False


@dataclass(eq=False)
class Session:
    """A worker session as the protocol wants it to be. A `silent` one does nothing, and its lease has run out."""

    slots: int
    kinds: frozenset[str]
    id: UUID = field(default_factory=uuid4)
    silent: bool = False
    held: dict[Fence, Held] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    cancels: set[UUID] = field(default_factory=set)  # that came before their release

    def running(self) -> list[Held]:
        return [held for held in self.held.values() if held.runs]

    def waiting(self) -> list[Held]:
        return [held for held in self.held.values() if not held.runs]


class Letter:
    """A delivery of reports to a manager."""

    redelivered = False

    def __init__(self, body: bytes) -> None:
        self.format, self.body = codec.REPORTS.name, body
        self.acked = 0

    def ack(self, *, multiple: bool = False) -> None:
        self.acked += 1

    def reject(self) -> None:
        raise AssertionError("a report of ours was rejected")


class Broker:
    """RabbitMQ, played: what is published to it stays until the machine takes it."""

    state = LinkState.OPEN

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.fate = Fate.CONFIRMED
        self.tasks: list[Message] = []
        self.reports: list[Reports] = []
        self.fences: Counter[Fence] = Counter()  # of releases that were ever published
        self.on_control: Callable[[Outgoing], None] = lambda _: None
        self.on_presence: Callable[[Outgoing], None] = lambda _: None

    async def publish(self, messages: Sequence[Outgoing], *, seconds: float) -> None:
        for message in messages:
            if message.exchange == self.topology.tasks.name:
                self._publish(message)
            elif message.exchange == self.topology.control.name:
                self.on_control(message)
            elif message.exchange == self.topology.presence.name:
                self.on_presence(message)
        if any(message.exchange == self.topology.tasks.name for message in messages):
            self._fail()

    def _publish(self, message: Outgoing) -> None:
        releases = codec.decode_releases(message.format, message.body).releases
        self.fences.update(release.fence for release in releases)
        if self.fate in {Fate.CONFIRMED, Fate.STORED}:
            self.tasks.append(Message(releases))

    def _fail(self) -> None:
        match self.fate:
            case Fate.NOT_SENT:
                raise BrokerUnavailable("the link is not open")
            case Fate.NOT_STORED | Fate.STORED:
                raise PublishUnconfirmed("the link was lost")
            case Fate.KILLED:
                raise Killed

    async def message_count(self, queue: str) -> int:
        return len(self.reports if queue == self.topology.reports_queue.name else self.tasks)

    async def counts(self, queue: str) -> QueueCounts:
        return QueueCounts(await self.message_count(queue), consumers=1)

    async def purge(self, queue: str) -> int:
        assert queue == self.topology.task_queue_name(QUEUE)
        purged = len(self.tasks)
        self.tasks.clear()
        return purged

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def wait_open(self, seconds: float) -> None: ...
    async def declare(self, things: Declared) -> None: ...
    def on_state(self, callback: Callable[[LinkState], None]) -> None: ...

    async def consume(self, consumer: Consumer) -> Consuming:
        """Nothing comes: the machine delivers by itself."""
        return Consumed()


class Consumed:
    """A consumer that has had all that was given to it, since ever."""

    active = True

    async def arrived(self) -> float | None:
        return 0.0

    async def consume_again(self, prefetch: int) -> None: ...
    async def stop(self) -> None: ...
    async def close(self) -> None: ...


def ends(report: Report) -> bool:
    """True when it is an outcome of the release, as far as the manager is concerned."""
    if isinstance(report, Returned):
        return report.reason is not ReturnReason.REDELIVERED
    return isinstance(report, (Completed, Failed, Snoozed, Cancelled, Expired))


def report_of(held: Held, outcome: str) -> Report | None:
    """What the session says at this end; None when it cannot end so."""
    fence, now = held.release.fence, datetime.now(UTC)
    seconds = QUICK_SECONDS if held.release.kind == "quick" else 1.0
    if not held.runs:
        match outcome:
            case "returned":
                return Returned(*fence, ReturnReason.SLOW)
            case "expired" if held.release.expires_at is not None and held.release.expires_at < now:
                return Expired(*fence)
        return None
    if held.stopping and outcome != "completed":
        return Cancelled(*fence, now, seconds, "asked")
    match outcome:
        case "completed":
            return Completed(*fence, now, seconds, b"%d" % fence.release)
        case "failed" | "hopeless":
            error = ErrorInfo("E", "m")
            return Failed(
                *fence, now, seconds, held.release.attempt, error, outcome == "failed", 0.0, held.release.kind
            )
        case "snoozed":
            return Snoozed(*fence, now, seconds, 60.0)
    return None
