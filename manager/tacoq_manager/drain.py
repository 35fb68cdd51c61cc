"""Drain: live sessions in, told to take no more work, or to take it again; those that have said so, or left, out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final
from uuid import UUID

from tacoq_manager.presence import Presence
from tacoq_manager.sessions import Sessions, SessionState
from tacoq_protocol.errors import BrokerUnavailable, WorkerNotFound
from tacoq_protocol.messages import Drain, Resume

ANSWER_SECONDS: Final = 5.0
ASK_AGAIN_SECONDS: Final = 1.0


class Drainer:
    """Tells sessions. What a session was told is known to itself alone, and to everybody by its heartbeats."""

    def __init__(self, sessions: Sessions, presence: Presence) -> None:
        self._sessions = sessions
        self._presence = presence

    def find(self, *, queue: str | None = None, host: str | None = None) -> list[SessionState]:
        """Return the live sessions of this queue and on this host."""
        return [state for state in self._sessions.live(queue) if host is None or state.host == host]

    def get(self, session: UUID) -> SessionState:
        """Return a live session. Raises WorkerNotFound."""
        for state in self._sessions.live():
            if state.session == session:
                return state
        raise WorkerNotFound(session)

    async def drain(self, sessions: Collection[SessionState], *, leave: bool) -> set[UUID]:
        """Have them take no more and hand back what has not started; return those that do, or have gone, by now.

        With `leave` they end when their runs have, or their grace time. Raises BrokerUnavailable.
        """
        return await self._tell(sessions, Drain(leave), draining=True)

    async def resume(self, sessions: Collection[SessionState]) -> set[UUID]:
        """Have them take work again; return those that do by now: one that is leaving does not. Raises
        BrokerUnavailable.
        """
        return await self._tell(sessions, Resume(), draining=False)

    async def _tell(self, sessions: Collection[SessionState], message: Drain | Resume, *, draining: bool) -> set[UUID]:
        """Tell them until they say so, for ANSWER_SECONDS: their link may be down for a moment."""
        told = {state.session for state in sessions}
        until = time.monotonic() + ANSWER_SECONDS
        deaf = told  # also one that drains: it may have to leave now
        while True:
            for session in sorted(deaf):
                if not await self._presence.send(f"session.{session}", message):
                    raise BrokerUnavailable("the workers cannot be told: the broker is away")
            try:
                async with asyncio.timeout(min(ASK_AGAIN_SECONDS, until - time.monotonic())):
                    await self._presence.until(lambda: self._saying(told, draining) == told)
                return told
            except TimeoutError:
                deaf = told - self._saying(told, draining)
                if time.monotonic() >= until:
                    return told - deaf

    def _saying(self, told: set[UUID], draining: bool) -> set[UUID]:
        live = {state.session: state.draining for state in self._sessions.live()}
        return {session for session in told if live.get(session, True) is draining}
