"""Publish: released tasks in, messages confirmed by RabbitMQ out; what is not confirmed is given back.

Should the broker have what was given back all the same, the two releases have different numbers, and only one outcome
counts. What may run once only is left to the rescue then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from tacoq_manager.credit import Credit
from tacoq_manager.lanes import Lanes
from tacoq_manager.metrics import Metrics
from tacoq_manager.sessions import Sessions
from tacoq_manager.settle import Settler
from tacoq_manager.store.claim import Claimed
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.transitions import give_back
from tacoq_manager.unpublished import Unpublished
from tacoq_protocol.broker import Broker, Declared, Outgoing
from tacoq_protocol.codec import RELEASES, cut, encode
from tacoq_protocol.errors import BrokerError, BrokerUnavailable, Unroutable
from tacoq_protocol.messages import Release, Releases
from tacoq_protocol.topology import Topology

PUBLISH_SECONDS: Final = 5.0


class ReleasePublisher:
    """Sends released tasks to the queues of their workers, and knows which of these it has declared."""

    def __init__(
        self,
        broker: Broker,
        topology: Topology,
        *,
        sessions: Sessions,
        settler: Settler,
        unpublished: Unpublished,
        lanes: Lanes,
        credit: Credit,
        metrics: Metrics,
    ) -> None:
        self._broker = broker
        self._topology = topology
        self._sessions = sessions
        self._settler = settler
        self._unpublished = unpublished
        self._lanes = lanes
        self._credit = credit
        self._metrics = metrics
        self._declared: set[str] = set()

    def has_declared(self, queue: str) -> bool:
        return queue in self._declared

    async def declare(self, queue: str) -> None:
        """Make the queue's own in the broker, once. Raises BrokerError."""
        if queue not in self._declared:
            await self._broker.declare(
                Declared(
                    exchanges=[self._topology.tasks, self._topology.dead],
                    queues=[self._topology.task_queue(queue)],
                    bindings=[self._topology.task_binding(queue)],
                )
            )
            self._declared.add(queue)

    def publish(self, queue: str, claimed: Sequence[Claimed]) -> Coroutine[Any, Any, None]:
        """Send `claimed`, in order; all confirmed when it returns. To be awaited, but sent by then.

        Raises BrokerError when that is not so in PUBLISH_SECONDS: they are given back then, but for what must not run
        twice and may have been sent. Raises DatabaseUnavailable when they are given back later.
        """
        claimed = [self._announced(item) for item in claimed]
        messages = [
            Outgoing(self._topology.tasks.name, queue, RELEASES.name, encode(Releases(queue, releases)))
            for releases in self._packed(queue, claimed)
        ]
        return self._confirm(queue, claimed, len(messages), self._broker.publish(messages, seconds=PUBLISH_SECONDS))

    async def _confirm(self, queue: str, claimed: Sequence[Claimed], messages: int, sent: Awaitable[None]) -> None:
        try:
            await sent
        except BrokerError as error:
            self._metrics.publish_failed()
            if isinstance(error, Unroutable):  # somebody deleted it: the next round makes it again
                self._declared.discard(queue)
            nothing_sent = isinstance(error, BrokerUnavailable)
            await self.give_back(claimed if nothing_sent else self._may_run_twice(claimed))
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self.give_back(self._may_run_twice(claimed)))
            raise
        self._metrics.dispatched(len(claimed), messages)

    async def give_back(self, claimed: Sequence[Claimed]) -> None:
        """Make them pending again, or cancelled when that was asked for.

        Raises DatabaseUnavailable: then the dispatcher does so when Postgres is back.
        """
        fences = [item.release.fence for item in claimed]
        if not fences:
            return
        try:
            await self._settler.apply([give_back(fence) for fence in fences])
        except (DatabaseUnavailable, asyncio.CancelledError):
            self._unpublished.doubt(fences)
            raise

    def _announced(self, item: Claimed) -> Claimed:
        """What must not run twice is always announced: a run that nobody heard of would be released again."""
        if not self._runs_once(item):
            return item
        return item._replace(release=msgspec.structs.replace(item.release, announced=True))

    def _may_run_twice(self, claimed: Sequence[Claimed]) -> list[Claimed]:
        """Leave out what must not: the broker may have it, and only the rescue finds out that nobody does."""
        return [item for item in claimed if not self._runs_once(item)]

    def _runs_once(self, item: Claimed) -> bool:
        spec = self._sessions.spec(item.lane.queue, item.lane.kind)
        return spec is not None and (spec.on_lost == "fail" or (item.release.max_attempts or spec.max_attempts) <= 1)

    def _packed(self, queue: str, claimed: Sequence[Claimed]) -> Iterable[list[Release]]:
        """Cut into messages of one kind, in order. An announced release travels alone."""
        for (kind, announced), run in groupby(claimed, key=lambda item: (item.lane.kind, item.release.announced)):
            backlog = self._lanes.waits(queue, kind)
            most = 1 if announced else self._credit.per_message(queue, kind, backlog=backlog)
            yield from cut((item.release for item in run), _size, most=most)


def _size(release: Release) -> int:
    return len(release.payload) + 200  # ids, times and trace context
