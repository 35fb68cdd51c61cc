"""All that a broker's owner declared, merged: what must exist after each connect."""

from __future__ import annotations

from tacoq_protocol.broker import Declared
from tacoq_protocol.topology import Binding, Exchange, Queue


class Wanted:
    """Declarations in, each thing once out, in the order they came; the last word on a name counts."""

    def __init__(self) -> None:
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        self._bindings: dict[Binding, None] = {}

    def add(self, things: Declared) -> None:
        self._exchanges.update((exchange.name, exchange) for exchange in things.exchanges)
        self._queues.update((queue.name, queue) for queue in things.queues)
        self._bindings.update((binding, None) for binding in things.bindings)

    def all(self) -> Declared:
        return Declared([*self._exchanges.values()], [*self._queues.values()], [*self._bindings])
