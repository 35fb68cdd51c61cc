"""The deaf step: messages that wait beside sessions with room in, `Rebuild` to those that take none of them out.

A session may beat well and hear nothing of its queue: its consumer was forgotten somewhere. Progress tells.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final
from uuid import UUID

from tacoq_manager.inflight import InFlight
from tacoq_manager.presence import Presence
from tacoq_manager.sessions import BEAT_SECONDS, Sessions, SessionState
from tacoq_protocol.broker import Broker
from tacoq_protocol.messages import Rebuild
from tacoq_protocol.topology import Topology

log = logging.getLogger("tacoq.deaf")

STEP_SECONDS: Final = BEAT_SECONDS
LOOKS: Final = 3  # in a row, before a session is taken for deaf


class Deafness:
    """Remembers what sessions had taken at the last look, and how often in a row they had taken nothing since."""

    def __init__(
        self, broker: Broker, topology: Topology, *, sessions: Sessions, presence: Presence, in_flight: InFlight
    ) -> None:
        self._broker = broker
        self._topology = topology
        self._sessions = sessions
        self._presence = presence
        self._in_flight = in_flight
        self._taken: dict[UUID, int] = {}
        self._idle: Counter[UUID] = Counter()

    async def step(self) -> int:
        """Look at every queue that has something released; return how many sessions were asked to consume anew."""
        live = self._sessions.live()
        idle = {state.session for state in live if self._has_room(state) and self._is_idle(state)}
        self._taken = {state.session: state.taken for state in live}
        self._idle = Counter({session: self._idle[session] for session in idle})
        asked = 0
        for queue, released in self._in_flight.by_queue().items():
            suspects = [state for state in live if state.queue == queue and state.session in idle]
            if not released or not suspects:
                continue
            if await self._broker.message_count(self._topology.task_queue_name(queue)):
                asked += sum([await self._suspect(state) for state in suspects])
            else:
                for state in suspects:
                    del self._idle[state.session]
        return asked

    async def _suspect(self, state: SessionState) -> bool:
        """It took nothing although something was there; True when it was asked to consume anew."""
        self._idle[state.session] += 1
        if self._idle[state.session] < LOOKS:
            return False
        del self._idle[state.session]
        log.warning("session takes nothing; asked to consume anew", extra={"session": state.session})
        return await self._presence.send(f"session.{state.session}", Rebuild())

    def _has_room(self, state: SessionState) -> bool:
        return state.introduced and not state.draining and state.held < state.slots

    def _is_idle(self, state: SessionState) -> bool:
        return self._taken.get(state.session) == state.taken
