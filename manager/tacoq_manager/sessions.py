"""Sessions: what was heard on presence in, who lives, with which slots and kinds, out. In memory.

**A lease runs only while presence demonstrably works.** The manager hears its own beat, too. While it does
not (start, reconnect, alarm, a frozen process) nothing tells a silent session from a deaf manager: nobody's
lease runs; from the first own beat after a gap everybody has a full one.

`now` is always in seconds of one monotonic clock, and comes from the caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from tacoq_protocol.messages import Fence, Heartbeat, KindSpec, Register

T = TypeVar("T")

BEAT_SECONDS: Final = 2.0
LEASE_SECONDS: Final = 10.0
GAP_SECONDS: Final = 2 * BEAT_SECONDS  # no own beat for longer: presence did not work
REMEMBERED: Final = 1_000  # sessions gone, so that one that comes back need not introduce itself


@dataclass(slots=True)
class SessionState:
    """One worker session as it last told. Until it is `introduced`, only beats were heard: no kinds."""

    session: UUID
    queue: str
    slots: int
    last_seen: float
    kinds: dict[str, KindSpec] = field(default_factory=dict)
    kinds_hash: str = ""
    introduced: bool = False
    held: int = 0
    taken: int = 0  # messages ever
    running: frozenset[Fence] = frozenset()  # those of more than 5 s
    draining: bool = False
    loop_blocked: bool = False
    rss_bytes: int | None = None
    version: str = ""
    host: str = ""
    pid: int = 0
    started_at: datetime | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a message meant. `introduce`: ask the session to; `joined`: it was not live before."""

    introduce: bool = False
    joined: bool = False
    changed: bool = False  # anything that credit or dispatch depends on


class Sessions:
    """All sessions this manager knows of."""

    def __init__(self) -> None:
        self._live: dict[UUID, SessionState] = {}
        self._silent: OrderedDict[UUID, SessionState] = OrderedDict()  # lease ran out: may come back
        self._ended: OrderedDict[UUID, None] = OrderedDict()  # left, or their process is dead: never come back
        self._specs: dict[tuple[str, str], KindSpec] = {}
        self._managers: dict[UUID, float] = {}
        self._own: float | None = None
        self._steady_since: float | None = None
        self._lacking: dict[tuple[str, str], tuple[UUID, ...]] = {}  # answers until something changes
        self._queue_of_kind: dict[str, str | None] = {}
        self._schemas: dict[tuple[str, str], tuple[bytes, ...]] = {}

    # What is heard.

    def seed(self, specs: Mapping[tuple[str, str], KindSpec]) -> None:
        """Take over what was known before the start, by (queue, kind). What sessions say goes before it."""
        self._specs = {**specs, **self._specs}
        self._forget_answers()

    def register(self, message: Register, now: float) -> Heard:
        """A session introduced itself."""
        if message.session in self._ended:
            return Heard()
        before = self._live.get(message.session) or self._silent.get(message.session)
        introduced = SessionState(
            session=message.session,
            queue=message.queue,
            slots=message.slots,
            last_seen=now,
            kinds={spec.name: spec for spec in message.kinds},
            kinds_hash=message.kinds_hash,
            introduced=True,
            version=message.version,
            host=message.host,
            pid=message.pid,
            started_at=message.started_at,
            labels=message.labels,
        )
        if before is not None:  # what only beats tell
            introduced = replace(
                introduced,
                held=before.held,
                taken=before.taken,
                running=before.running,
                draining=before.draining,
                loop_blocked=before.loop_blocked,
                rss_bytes=before.rss_bytes,
            )
        joined = self._is_new(message.session)
        self._live[message.session] = introduced
        for spec in message.kinds:
            self._specs[message.queue, spec.name] = spec
        self._forget_answers()
        return Heard(joined=joined, changed=True)

    def heartbeat(self, message: Heartbeat, now: float) -> Heard:
        """A session lives. One that beats again after it was lost has a full lease again."""
        if message.session in self._ended:
            return Heard()
        state = self._live.get(message.session) or self._silent.get(message.session)
        if state is None:
            state = SessionState(message.session, message.queue, message.slots, now)
        joined = self._is_new(message.session)
        relevant = (state.slots, state.draining)
        state.last_seen = now
        state.slots = message.slots
        state.held = message.held
        state.taken = message.taken
        state.running = frozenset(message.running)
        state.draining = message.draining
        state.loop_blocked = message.loop_blocked
        state.rss_bytes = message.rss_bytes
        state.version = message.version
        self._live[message.session] = state
        changed = joined or relevant != (state.slots, state.draining)
        if changed:
            self._forget_answers()
        stranger = joined or not state.introduced or state.kinds_hash != message.kinds_hash
        return Heard(introduce=stranger, joined=joined, changed=changed)

    def leave(self, session: UUID) -> SessionState | None:
        """A session ended by itself. Returns what it was, None when it was not live."""
        return self._end(session)

    def lost(self, session: UUID) -> SessionState | None:
        """The process of a session is dead. Returns what it was, None when it was not live."""
        return self._end(session)

    def own_beat(self, now: float) -> None:
        """This manager heard itself: presence works."""
        if self._own is None or now - self._own > GAP_SECONDS:
            self._steady_since = now
        self._own = now

    def interrupt(self) -> None:
        """Presence does not work: connection lost, or blocked. Leases start anew with the next own beat."""
        self._own = self._steady_since = None

    def manager_beat(self, manager: UUID, now: float) -> None:
        """Another manager lives."""
        self._managers[manager] = now

    def tick(self, now: float) -> list[SessionState]:
        """Return the sessions whose lease has just run out; they are not live any more."""
        if self._own is None or now - self._own > GAP_SECONDS:
            self.interrupt()
            return []
        expired = [state for state in self._live.values() if self._lease_left(state, now) < 0]
        for state in expired:
            del self._live[state.session]
            _remember(self._silent, state.session, state)
        if expired:
            self._forget_answers()
        return expired

    # What is asked.

    @property
    def steady_since(self) -> float | None:
        """Since when own beats were heard without a gap, at the last `tick`; None while they are not."""
        return self._steady_since

    def live(self, queue: str | None = None) -> list[SessionState]:
        """Live sessions of a queue, or of all, draining ones included."""
        return [state for state in self._live.values() if queue is None or state.queue == queue]

    def is_live(self, session: UUID) -> bool:
        return session in self._live

    def is_gone(self, session: UUID) -> bool:
        """True when it was heard, or heard of, and is not live any more."""
        return session in self._silent or session in self._ended

    def queues(self) -> set[str]:
        """Queues that a live session serves."""
        return {state.queue for state in self._live.values()}

    def slots(self, queue: str) -> int:
        """Slots of the queue's live sessions that take work."""
        return sum(state.slots for state in self._live.values() if state.queue == queue and not state.draining)

    def capacity(self, queue: str) -> int:
        """`slots`, and those in which draining sessions still have what was released to them before."""
        return self.slots(queue) + sum(
            min(state.held, state.slots) for state in self._live.values() if state.queue == queue and state.draining
        )

    def known_by_all(self, queue: str, kind: str) -> bool:
        """True when the queue has sessions that take work, and every one of them knows the kind."""
        taking = any(state.queue == queue and not state.draining for state in self._live.values())
        return taking and not self.lacking(queue, kind)

    def lacking(self, queue: str, kind: str) -> tuple[UUID, ...]:
        """Sessions of the queue that take work and do not know the kind."""
        answer = self._lacking.get((queue, kind))
        if answer is None:
            answer = self._lacking[queue, kind] = tuple(
                state.session
                for state in self._live.values()
                if state.queue == queue and not state.draining and kind not in state.kinds
            )
        return answer

    def kinds_of(self, queue: str) -> set[str]:
        """Kinds that a live session of the queue knows."""
        return {kind for state in self._live.values() if state.queue == queue for kind in state.kinds}

    def declare(self, schedule: str) -> bool:
        """True when the code of a live session has this schedule."""
        return any(_declares(state, schedule) for state in self._live.values())

    def disown(self, queue: str, schedule: str, now: float) -> bool:
        """True when the queue has sessions that take work, all of them are known, and none has this schedule.

        Known only after a lease of working presence. While nobody is there nothing is disowned: they may come back.
        """
        taking = [state for state in self._live.values() if state.queue == queue and not state.draining]
        settled = self._steady_since is not None and now - self._steady_since > LEASE_SECONDS
        known = settled and all(state.introduced for state in taking)
        return bool(taking) and known and not any(_declares(state, schedule) for state in taking)

    def spec(self, queue: str, kind: str) -> KindSpec | None:
        """The kind as it was last registered for the queue."""
        return self._specs.get((queue, kind))

    def payload_schemas(self, queue: str, kind: str) -> tuple[bytes, ...]:
        """The different schemas of the kind that live sessions have, or, without any, the one known last."""
        schemas = self._schemas.get((queue, kind))
        if schemas is None:
            specs = [state.kinds[kind] for state in self._live.values() if state.queue == queue and kind in state.kinds]
            last = self._specs.get((queue, kind))
            specs = specs or ([last] if last is not None else [])
            schemas = self._schemas[queue, kind] = tuple(dict.fromkeys(spec.payload_schema for spec in specs))
        return schemas

    def queue_of_kind(self, kind: str) -> str | None:
        """The one queue whose live sessions know the kind, or, without any, that knew it; else None."""
        if kind not in self._queue_of_kind:
            queues = {state.queue for state in self._live.values() if kind in state.kinds}
            queues = queues or {queue for queue, name in self._specs if name == kind}
            self._queue_of_kind[kind] = queues.pop() if len(queues) == 1 else None
        return self._queue_of_kind[kind]

    def other_managers(self, now: float) -> bool:
        """True when another manager was heard within a lease."""
        return any(now - heard <= LEASE_SECONDS for heard in self._managers.values())

    def past_expiry(self, now: float) -> int:
        """Live sessions whose lease ran out more than a beat ago: above 0, `tick` was not called."""
        return sum(1 for state in self._live.values() if self._lease_left(state, now) < -BEAT_SECONDS)

    # The rest.

    def _lease_left(self, state: SessionState, now: float) -> float:
        if self._steady_since is None:
            return LEASE_SECONDS
        return max(state.last_seen, self._steady_since) + LEASE_SECONDS - now

    def _is_new(self, session: UUID) -> bool:
        return self._silent.pop(session, None) is not None or session not in self._live

    def _end(self, session: UUID) -> SessionState | None:
        _remember(self._ended, session, None)
        self._silent.pop(session, None)
        state = self._live.pop(session, None)
        self._forget_answers()
        return state

    def _forget_answers(self) -> None:
        self._lacking.clear()
        self._queue_of_kind.clear()
        self._schemas.clear()


def _declares(state: SessionState, schedule: str) -> bool:
    spec = state.kinds.get(schedule)
    return spec is not None and spec.cron is not None


def _remember(sessions: OrderedDict[UUID, T], session: UUID, value: T) -> None:
    sessions[session] = value
    if len(sessions) > REMEMBERED:
        sessions.popitem(last=False)
