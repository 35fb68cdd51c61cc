"""Stack: workers in; manager, HTTP and the workers' sessions on one loop out, over one Postgres and no broker.

The same code as in production but for two adapters: an in-process broker, and a Postgres that is started for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from tacoq_manager.api.app import create_app
from tacoq_manager.manager import Manager
from tacoq_manager.serve import HttpServer
from tacoq_manager.settings import Settings
from tacoq_manager.store import migrate
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.labels import NO_LABELS
from tacoq_worker import Worker
from tacoq_worker.session import Session


class Stack:
    """All of TacoQ in this process. `settings.database_url` is a Postgres that nobody else uses."""

    def __init__(
        self, workers: Sequence[Worker], settings: Settings, *, grace: float, labels: Mapping[str, str] = NO_LABELS
    ) -> None:
        self._settings = settings
        self._labels = labels
        self._grace = grace
        self._workers = workers
        self.hub = MemoryHub()
        self._exit = AsyncExitStack()
        self.manager = Manager(settings, MemoryBroker(self.hub, "manager"))
        self.sessions: list[Session] = []
        self._server = HttpServer(create_app(self.manager), settings.host, settings.port)

    @property
    def url(self) -> str:
        return self._server.url

    async def __aenter__(self) -> Self:
        """Migrate, take back what the last process had released, and start; the workers are known when it returns.

        Raises ConfigurationError when the address cannot be had.
        """
        async with AsyncExitStack() as started:
            await migrate.upgrade(self._settings.database_url)
            started.push_async_callback(self.manager.stop)
            await self.manager.rescuer.take_back_all()  # the broker was in the process that is gone
            await self.manager.start()
            await self._server.start()
            started.push_async_callback(self._server.stop)
            for worker in self._workers:
                session = Session(
                    worker, lambda name: MemoryBroker(self.hub, name), self._settings.topology, labels=self._labels
                )
                await session.start()
                self.sessions.append(session)
                started.push_async_callback(session.drain, self._grace)
            await self.manager.presence.joined(session.id for session in self.sessions)
            self._exit = started.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drain the workers, then end in the opposite order of the start."""
        await self._exit.aclose()
