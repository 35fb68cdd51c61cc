"""The in-process broker's server half: messages in, routed to queues, handed to consumers within prefetch.

It keeps RabbitMQ's rules and has its faults: it can block, lose a connection, go down, and stop answering.
One lock guards all of it, so that peers may live on loops of different threads.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence

from tacoq_protocol.broker import Declared, Outgoing, QueueCounts
from tacoq_protocol.brokers.queues import MemoryExchange, MemoryQueue, News, Peer, Stored, Tap
from tacoq_protocol.errors import BrokerUnavailable, ConfigurationError, PublishUnconfirmed
from tacoq_protocol.topology import Binding, Queue


class MemoryHub:
    """The server. Messages live as long as it does, except over `go_down`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._peers: set[Peer] = set()
        self._exchanges: dict[str, MemoryExchange] = {}
        self._queues: dict[str, MemoryQueue] = {}
        self._serial = itertools.count(1)
        self._up = True
        self._blocked = False
        self._late: list[tuple[Sequence[Outgoing], Callable[[bool], None]]] | None = None  # a list while frozen

    # What a client does.

    def connect(self, peer: Peer) -> bool:
        """Connect, or when down remember to tell `News.UP`. Returns whether publishing is blocked."""
        with self._lock:
            self._peers.add(peer)
            if not self._up:
                raise BrokerUnavailable("the in-process broker is down")
            peer.connected = True
            return self._blocked

    def leave(self, peer: Peer) -> None:
        """Close a connection for good: what it had not acked goes back, its exclusive queues are deleted."""
        with self._lock:
            self._peers.discard(peer)
            self._drop(peer)

    def declare(self, things: Declared, established: set[str]) -> None:
        """Make all of `things` exist. Queues are added to `established`, and never rebuilt when they are in it."""
        with self._lock:
            for exchange in things.exchanges:
                known = self._exchanges.setdefault(exchange.name, MemoryExchange(exchange.type))
                if known.type != exchange.type:
                    raise ConfigurationError(f"exchange {exchange.name!r} exists as {known.type}, not {exchange.type}")
            for queue in things.queues:
                self._declare_queue(queue, established)
            for binding in things.bindings:
                self._bind(binding, binding.queue)

    def open_tap(
        self,
        peer: Peer,
        queue: Queue,
        bindings: Sequence[Binding],
        prefetch: int | None,
        *,
        established: set[str],
        wake: Callable[[], None],
        lost: Callable[[], None],
    ) -> Tap:
        """Consume from a queue, declared and bound on the way; an exclusive one is made for this peer."""
        with self._lock:
            if queue.exclusive:
                source = MemoryQueue(f"amq.gen-{next(self._serial)}", queue, owner=peer)
                self._queues[source.name] = source
            else:
                source = self._declare_queue(queue, established)
            for binding in bindings:
                self._bind(binding, source.name)
            tap = Tap(peer, source, prefetch, wake, lost)
            source.taps.append(tap)
            peer.taps.append(tap)
            source.hand_out()
            return tap

    def take(self, tap: Tap, most: int) -> list[tuple[int, Stored]]:
        """Move up to `most` deliveries out of a tap's inbox."""
        with self._lock:
            return [tap.inbox.popleft() for _ in range(min(most, len(tap.inbox)))]

    def settle(self, tap: Tap, tag: int, *, multiple: bool = False) -> None:
        """Ack: forget this delivery, or all up to it."""
        with self._lock:
            if multiple:
                for earlier in list(itertools.takewhile(lambda t: t <= tag, tap.unacked)):
                    del tap.unacked[earlier]
                    tap.earlier.discard(earlier)
            else:
                tap.unacked.pop(tag, None)
                tap.earlier.discard(tag)
            tap.queue.hand_out()

    def reject(self, tap: Tap, tag: int) -> None:
        """Take a delivery off its queue and send it to the dead letters, if the queue has any."""
        with self._lock:
            stored = tap.unacked.pop(tag, None)
            tap.earlier.discard(tag)
            if stored is None:
                return
            dead = self._exchanges.get(str(tap.queue.declared.arguments.get("x-dead-letter-exchange")))
            if dead is not None:
                self._route(dead, stored.message)
            tap.queue.hand_out()

    def open_again(self, tap: Tap, prefetch: int) -> None:
        """Hand it messages up to this prefetch, in which what it has now does not count."""
        with self._lock:
            tap.prefetch = prefetch
            tap.earlier = set(tap.unacked)
            tap.queue.hand_out()

    def stop_tap(self, tap: Tap) -> None:
        """Hand it nothing more; what it has can still be settled."""
        with self._lock:
            if tap in tap.queue.taps:
                tap.queue.taps.remove(tap)

    def close_tap(self, tap: Tap) -> None:
        """Stop, and put back what was not settled; an exclusive queue goes with it."""
        with self._lock:
            self.stop_tap(tap)
            if tap in tap.peer.taps:
                tap.peer.taps.remove(tap)
            returned, tap.unacked = list(tap.unacked.values()), {}
            tap.earlier.clear()
            tap.inbox.clear()
            if tap.queue.owner is not None:
                self._forget_queue(tap.queue)
            elif returned:
                tap.queue.restore(returned)
                tap.queue.hand_out()

    def publish(self, peer: Peer, messages: Sequence[Outgoing], late: Callable[[bool], None]) -> bool | None:
        """Store messages; return whether every mandatory one had a queue. While frozen: None; `late` is told.

        Raises BrokerUnavailable when the peer is not connected or publishing is blocked, PublishUnconfirmed
        when an exchange does not exist (RabbitMQ closes the channel).
        """
        with self._lock:
            if not peer.connected or self._blocked:
                raise BrokerUnavailable("the in-process broker takes no messages now: nothing was sent")
            for message in messages:
                if message.exchange not in self._exchanges:
                    raise PublishUnconfirmed(f"no exchange {message.exchange!r}: declare it first")
            if self._late is not None:
                self._late.append((messages, late))
                return None
            return self._store(messages)

    def counts(self, queue: str) -> QueueCounts | None:
        with self._lock:
            found = self._queues.get(queue)
            if found is None:
                return None
            taps = [tap for peer in self._peers for tap in peer.taps if tap.queue is found]
            return QueueCounts(len(found.ready), sum(tap in found.taps or bool(tap.unacked) for tap in taps))

    def purge(self, queue: str) -> int:
        """Delete the messages of a queue that no tap has; return how many they were."""
        with self._lock:
            found = self._queues.get(queue)
            if found is None:
                return 0
            count = len(found.ready)
            found.ready.clear()
            return count

    # What happens to a server.

    def block(self) -> None:
        """Take no more messages, as under a memory or disk alarm."""
        self._tell_blocked(True, News.BLOCKED)

    def unblock(self) -> None:
        self._tell_blocked(False, News.UNBLOCKED)

    def freeze(self) -> None:
        """Stop answering publishers without closing: all they send is stored at `thaw`, wanted or not."""
        with self._lock:
            self._late = self._late or []

    def thaw(self) -> None:
        with self._lock:
            late, self._late = self._late or [], None
            for messages, tell in late:
                tell(self._store(messages))

    def disconnect(self, name: str) -> None:
        """Lose the connections of this name; they may connect again at once."""
        with self._lock:
            for peer in [p for p in self._peers if p.name == name and p.connected]:
                self._drop(peer)
                peer.news(News.LOST)

    def go_down(self) -> None:
        """Lose every connection, and what is not persistent."""
        with self._lock:
            self._up = False
            for peer in [p for p in self._peers if p.connected]:
                self._drop(peer)
                peer.news(News.LOST)
            for queue in self._queues.values():
                queue.ready = deque(s for s in queue.ready if s.message.persistent)

    def come_up(self) -> None:
        with self._lock:
            self._up = True
            for peer in self._peers:
                peer.news(News.UP)

    def delete_queue(self, name: str) -> None:
        """Delete a queue with all it holds; its consumers are lost."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None:
                self._forget_queue(queue)

    # The rest is called with the lock held.

    def _tell_blocked(self, blocked: bool, news: News) -> None:
        with self._lock:
            self._blocked = blocked
            for peer in self._peers:
                if peer.connected:
                    peer.news(news)

    def _drop(self, peer: Peer) -> None:
        peer.connected = False
        for tap in list(peer.taps):
            self.close_tap(tap)

    def _declare_queue(self, queue: Queue, established: set[str]) -> MemoryQueue:
        known = self._queues.get(queue.name)
        if known is not None and known.declared.arguments != queue.arguments:
            if not queue.rebuildable:
                found, wanted = known.declared.arguments, queue.arguments
                raise ConfigurationError(f"queue {queue.name!r} exists with arguments {found}, not {wanted}")
            if queue.name not in established:
                self._forget_queue(known)
                known = None
        established.add(queue.name)
        if known is None:
            known = self._queues[queue.name] = MemoryQueue(queue.name, queue)
        return known

    def _forget_queue(self, queue: MemoryQueue) -> None:
        self._queues.pop(queue.name, None)
        for exchange in self._exchanges.values():
            exchange.bindings = {bound for bound in exchange.bindings if bound[1] != queue.name}
        for tap in list(queue.taps):
            queue.taps.remove(tap)
            tap.unacked.clear()
            tap.inbox.clear()
            tap.lost()

    def _bind(self, binding: Binding, queue: str) -> None:
        exchange = self._exchanges.get(binding.exchange)
        if exchange is None or queue not in self._queues:
            raise ConfigurationError(
                f"cannot bind queue {queue!r} to exchange {binding.exchange!r}: declare both first"
            )
        exchange.bindings.add((binding.routing_key, queue))

    def _store(self, messages: Sequence[Outgoing]) -> bool:
        routed = True
        touched: set[str] = set()
        for message in messages:
            queues = self._exchanges[message.exchange].queues_for(message.routing_key)
            touched |= queues
            for name in queues:
                self._queues[name].store(message)
            routed = routed and (bool(queues) or not message.mandatory)
        for name in touched:
            self._queues[name].hand_out()
        return routed

    def _route(self, exchange: MemoryExchange, message: Outgoing) -> None:
        for name in exchange.queues_for(message.routing_key):
            self._queues[name].store(message)
            self._queues[name].hand_out()
