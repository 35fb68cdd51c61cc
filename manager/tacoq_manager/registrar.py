"""Registrar: sessions that began or ended in; rows of the registry, written behind and merged meanwhile, out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final
from uuid import UUID

from tacoq_manager import schedules
from tacoq_manager.store import registry
from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_protocol.messages import Register

log = logging.getLogger("tacoq.presence")

RETRY_SECONDS: Final = 1.0


class Registrar:
    """Nobody waits for it: what sessions are is known in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._registered: dict[UUID, Register] = {}
        self._ended: dict[UUID, tuple[str, str | None]] = {}
        self._live: frozenset[UUID] | None = None
        self._work = asyncio.Event()

    def registered(self, message: Register) -> None:
        """A session introduced itself: it is live, whatever was said before."""
        self._registered[message.session] = message
        self._ended.pop(message.session, None)
        self._work.set()

    def ended(self, session: UUID, state: str, detail: str | None) -> None:
        """A session is over; `state`: left or lost."""
        self._ended[session] = (state, detail)
        self._work.set()

    def only_live(self, sessions: Collection[UUID]) -> None:
        """Sessions that stand as live and are none of these ended while nobody looked."""
        self._live = frozenset(sessions)
        self._work.set()

    async def run(self) -> None:
        """Write whenever there is something to write, for ever."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self.step()
            except DatabaseUnavailable as error:
                log.info("registry waits for Postgres", extra={"reason": str(error)})
                self._work.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def step(self) -> int:
        """Write all that is to be written; return how many sessions. Raises DatabaseUnavailable, and keeps them."""
        registered, self._registered = self._registered, {}
        ended, self._ended = self._ended, {}
        live, self._live = self._live, None
        try:
            await self._write(registered, ended)
            if live is not None:
                await registry.end_unheard(self._database, live, "ended while no manager was listening")
        except DatabaseUnavailable:
            again = {session: end for session, end in ended.items() if session not in self._registered}
            self._ended = again | self._ended  # newer goes before older
            self._registered = registered | self._registered
            self._live = live
            raise
        return len(registered) + len(ended)

    async def _write(self, registered: dict[UUID, Register], ended: dict[UUID, tuple[str, str | None]]) -> None:
        try:
            await registry.register(self._database, list(registered.values()))
            await schedules.declare(self._database, registered.values())
            await registry.end(self._database, ended)
        except DatabaseUnavailable:
            raise
        except Exception:  # a value that Postgres does not take: its session alone goes unwritten
            if len(registered) + len(ended) <= 1:
                log.exception("a session cannot be written to the registry", extra={"sessions": [*registered, *ended]})
                return
            for session, message in registered.items():
                await self._write({session: message}, {})
            for session, end in ended.items():
                await self._write({}, {session: end})
