"""Dead letters: what nobody can read or apply in, a message with the reason in the queue `dead` out, for people."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tacoq_manager.metrics import Metrics
from tacoq_protocol.broker import Broker, LinkState, Outgoing
from tacoq_protocol.codec import DEAD, encode
from tacoq_protocol.errors import BrokerError
from tacoq_protocol.messages import DeadLetter
from tacoq_protocol.topology import Topology

log = logging.getLogger("tacoq.dead_letters")

PUBLISH_SECONDS: Final = 2.0  # reports wait behind it


class DeadLetters:
    """The way to the dead letters, and how many lie there."""

    def __init__(self, broker: Broker, topology: Topology, metrics: Metrics) -> None:
        self._broker = broker
        self._topology = topology
        self._metrics = metrics
        self.waiting: int | None = None  # at the last count

    async def send(self, letters: Sequence[DeadLetter]) -> bool:
        """Publish and count; whether the broker has confirmed them. Takes PUBLISH_SECONDS at most."""
        for cause, count in Counter(letter.cause for letter in letters).items():
            self._metrics.dead_lettered(cause, count)
        name = self._topology.dead.name
        messages = [Outgoing(name, "", DEAD.name, encode(letter), persistent=True) for letter in letters]
        try:
            await self._broker.publish(messages, seconds=PUBLISH_SECONDS)
        except BrokerError as error:
            log.warning("dead letters not confirmed", extra={"letters": len(letters), "error": str(error)})
            return False
        return True

    async def count(self) -> int:
        """Look how many wait there, and return it; 0 while the broker is away. Raises BrokerUnavailable."""
        if self._broker.state is LinkState.CLOSED:
            return 0
        self.waiting = await self._broker.message_count(self._topology.dead_queue.name) or 0
        return self.waiting
