"""Field: TacoQ as real processes on servers of its own, every part of which a test may break; each fault is counted.

Workers by name, as in `Cluster`; managers in their seats, one unless the test adds more; `broker` and `postgres` to
break; proxies on the links a test names.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psutil

from scripts.private_servers import PrivatePostgres, PrivateRabbit
from scripts.probes import free_port
from tacoq_protocol.topology import Topology
from tacoq_worker import Worker
from tests.faults.effects import EFFECTS_URL, Effects
from tests.faults.seat import Seat
from tests.faults.servers import PostgresUnderFault, RabbitUnderFault
from tests.faults.struck import Struck
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.spawn import TACOQ, Spawned

LEASE = 10.0
MOST_LOG = 20_000
STEADY_AFTER = 4.0  # for a manager to start, and to hear itself
HANDLERS = "tests.faults.handlers"


class Link(Enum):
    """A way on which a proxy may stand."""

    MANAGER_BROKER = "manager's link to the broker"
    WORKER_BROKER = "workers' link to the broker"
    MANAGER_POSTGRES = "manager's link to Postgres"
    PUBLISHER_MANAGER = "publishers' link to the manager"


class Group:
    """`tacoq worker` with its session processes, and their children. `link`: its own proxy to the broker, if any."""

    def __init__(
        self, name: str, process: Spawned, *, slots: int, processes: int, struck: Struck, link: Proxy | None
    ) -> None:
        self.name = name
        self.process = process
        self.link = link
        self._slots = slots  # of one session
        self._processes = processes
        self._struck = struck

    @property
    def slots(self) -> int:
        """Slots of all its sessions, while it runs."""
        return self._slots * self._processes if self.process.running else 0

    def sessions(self) -> list[psutil.Process]:
        """Its session processes that live, oldest first."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return sorted((child for child in children if _lives(child)), key=lambda child: child.create_time())
        return []

    def kill_session(self) -> int:
        """kill -9 a session process; return its pid. The supervisor sees it and starts another."""
        session = self.sessions()[0]
        self._struck.strike("session process killed", self._slots)
        session.kill()
        return session.pid

    def kill(self) -> None:
        """kill -9 the supervisor and all below it: nobody tells of it, the lease has to run out."""
        self._struck.strike("worker killed", self.slots)
        self.process.kill_all()

    def freeze(self) -> None:
        """SIGSTOP the supervisor and all below it, as a machine does that is suspended."""
        self._struck.strike("worker frozen", self.slots)
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to drain. No fault: what cannot end in time is handed back."""
        self.process.terminate()

    def _signal(self, number: signal.Signals) -> None:
        # Not to the process group: its watchdog must go on, to end all this if the test dies.
        with suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            for process in (supervisor, *supervisor.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)


class Field(Cluster):
    """Everything ends with the block."""

    def __init__(
        self,
        rabbit: PrivateRabbit,
        postgres: PrivatePostgres,
        *,
        database: str,
        namespace: str,
        effects: Effects,
        links: frozenset[Link] = frozenset(),
    ) -> None:
        super().__init__(database, rabbit.broker_url, namespace, handlers=HANDLERS)
        self.effects = effects
        self.struck = Struck()
        self.seats = [Seat(self.port, self._manager_on, self.struck)]
        self.topology = Topology(namespace)
        self.broker = RabbitUnderFault(rabbit, self.struck, self.slots)
        self.postgres = PostgresUnderFault(postgres, self.struck, self.slots, database=database)
        self.groups: list[Group] = []
        self.settings: dict[str, str] = {}  # of workers, in their environment
        self.manager_program: Sequence[str] = (TACOQ,)
        self._wanted = links
        self._links: dict[Link, Proxy] = {}
        self._proxies: list[Proxy] = []

    async def __aenter__(self) -> Self:
        for link in self._wanted:
            self._links[link] = await self._proxy(self._target(link))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thaw_all()
        try:
            super().__exit__(kind, error, traceback)
        finally:
            for proxy in self._proxies:
                await proxy.close()

    def link(self, link: Link) -> Proxy:
        """The proxy on a link that the test named. What it does is written down by `strike`."""
        return self._links[link]

    def strike(self, name: str, slots: int | None = None) -> None:
        """Write down a fault that the test makes itself. It can hit the runs of `slots`: of all, unless given."""
        self.struck.strike(name, self.slots() if slots is None else slots)

    def slots(self) -> int:
        return sum(group.slots for group in self.groups)

    @property
    def publish_url(self) -> str:
        """Where publishers find the manager: through their proxy when there is one."""
        proxy = self._links.get(Link.PUBLISHER_MANAGER)
        return self.url if proxy is None else f"http://127.0.0.1:{proxy.port}"

    async def presence_works(self) -> None:
        """Wait until the manager has heard presence for a lease: before that it takes nobody's silence for a loss."""
        await asyncio.sleep(max(0.0, self.seats[0].began + LEASE + STEADY_AFTER - time.monotonic()))

    def begin_manager(self) -> Spawned:
        """Start the manager without waiting for it: servers may be away."""
        self.manager = self.seats[0].begin()
        return self.manager

    async def begin_and_wait(self) -> None:
        """Start the manager and wait until it accepts."""
        await self.seats[0].begin_and_wait()
        self.manager = self.seats[0].process

    async def add_manager(self) -> Seat:
        """Start another manager beside those that there are, and wait until it accepts."""
        self.seats.append(Seat(free_port(), self._manager_on, self.struck))
        await self.seats[-1].begin_and_wait()
        return self.seats[-1]

    async def leading(self, *, beside: Seat | None = None) -> Seat:
        """Wait until a manager leads, another than that `beside`; return its seat."""

        async def found() -> Seat | None:
            rows = await self.rows("SELECT holder FROM leader WHERE expires_at > clock_timestamp()")
            return next((seat for row in rows for seat in self.seats if seat.is_named(row["holder"])), None)

        async def other() -> Seat | None:
            seat = await found()
            return None if seat is beside else seat

        seat = await eventually(other, 60, what="a manager leads")
        assert seat is not None
        return seat

    def _thaw_all(self) -> None:
        for group in self.groups:
            group.thaw()
        for seat in self.seats:
            seat.thaw()

    def _manager_on(self, port: int) -> Spawned:
        env = {
            "TACOQ_BROKER_URL": self._through(Link.MANAGER_BROKER, self.broker.url),
            "TACOQ_DATABASE_URL": self._through(Link.MANAGER_POSTGRES, self.database),
        }
        return self.spawn("manager", "--port", str(port), env=env, program=self.manager_program)

    async def up(self, *workers: str) -> list[Group]:
        """Start the manager and these workers, and wait until all have joined; return the workers."""
        await self.begin_and_wait()
        groups = [await self.add_worker(name) for name in workers]
        for queue in {_worker(name).queue for name in workers}:
            await self.joined(sum(_worker(name).queue == queue for name in workers), queue)
        return groups

    async def kill_manager(self) -> None:
        """kill -9 it; `begin_manager` starts another on the same port."""
        await self.seats[0].kill(self.slots())

    async def stop_manager(self) -> None:
        """SIGTERM it, and wait for its end. No run is to be repeated for that."""
        await self.seats[0].stop()

    async def add_worker(
        self, name: str = "worker", *, processes: int = 1, own_link: bool = False, grace: str = "20s"
    ) -> Group:
        """Start `tacoq worker`; `joined` waits for it. With `own_link` a proxy stands before its broker alone."""
        proxy = await self._proxy(self.broker.url) if own_link else None
        url = _at(self.broker.url, proxy) if proxy else self._through(Link.WORKER_BROKER, self.broker.url)
        env = {**self.settings, "TACOQ_BROKER_URL": url, "TACOQ_SHUTDOWN_GRACE": grace, EFFECTS_URL: self.effects.url}
        arguments = ("worker", f"{self.handlers}:{name}", "--processes", str(processes))
        process, slots = self.spawn(*arguments, env=env), _worker(name).concurrency
        group = Group(name, process, slots=slots, processes=processes, struck=self.struck, link=proxy)
        self.groups.append(group)
        return group

    def print_logs(self) -> None:
        """Show what the processes wrote, the newest of each, and what was done to them."""
        print(f"faults: {self.struck}")
        for process in self.spawned:
            print(f"--- {process}\n{process.log()[-MOST_LOG:]}")

    async def heal(self) -> None:
        """Undo whatever stands still or is away: servers, alarms, links, workers, the manager."""
        self._thaw_all()
        for proxy in self._proxies:
            proxy.thaw()
            proxy.slow(0.0)
        await self.broker.start()
        await self.broker.clear_alarm()
        await self.postgres.start()
        for seat in self.seats:
            if not seat.running:
                await seat.begin_and_wait()
            await eventually(seat.ready, 60, what="every manager is ready after healing")

    def _target(self, link: Link) -> str:
        match link:
            case Link.MANAGER_BROKER | Link.WORKER_BROKER:
                return self.broker.url
            case Link.MANAGER_POSTGRES:
                return self.database
            case Link.PUBLISHER_MANAGER:
                return self.url

    async def _proxy(self, url: str) -> Proxy:
        parts = urlsplit(url)
        proxy = Proxy(parts.hostname or "", parts.port or 0)
        await proxy.start()
        self._proxies.append(proxy)
        return proxy

    def _through(self, link: Link, url: str) -> str:
        proxy = self._links.get(link)
        return url if proxy is None else _at(url, proxy)


def _at(url: str, proxy: Proxy) -> str:
    """The same URL at the proxy's address."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{proxy.port}"))


def _worker(name: str) -> Worker:
    worker: Worker = getattr(importlib.import_module(HANDLERS), name)
    return worker


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
