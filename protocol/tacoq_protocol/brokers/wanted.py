"""All that a broker's owner declared, merged: what must exist after each connect."""

from __future__ import annotations

from tacoq_protocol.broker import Declared
from tacoq_protocol.topology import Binding, Exchange, Queue


class Wanted:
    """Declarations in, each thing once out, in the order they came; the last word on a name counts.

    `established` names the queues that this broker has found or made to be as it wants them. One that differs later was
    changed by somebody who started later, and is left so: two that disagree would delete it in turns.
    """

    def __init__(self) -> None:
        self.established: set[str] = set()
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._bindings: dict[Binding, None] = {}

    def add(self, things: Declared) -> None:
        self.established -= {queue.name for queue in things.queues if self._queues.get(queue.name) != queue}
        self._exchanges.update((exchange.name, exchange) for exchange in things.exchanges)
        self._queues.update((queue.name, queue) for queue in things.queues)
        self._bindings.update((binding, None) for binding in things.bindings)

    def around(self, queue: Queue) -> Declared:
        """A queue with its bindings: what makes it whole when it was deleted."""
        return Declared(queues=[queue], bindings=[binding for binding in self._bindings if binding.queue == queue.name])

    def all(self) -> Declared:
        return Declared([*self._exchanges.values()], [*self._queues.values()], [*self._bindings])
