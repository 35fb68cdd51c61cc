"""Seat: a port in; a manager begun there, killed, stopped still and woken, as often as a test likes, out."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import aiohttp

from tests.faults.struck import Struck
from tests.support.spawn import Spawned

SECONDS_TO_BEGIN = 30.0


class Seat:
    """One manager of several. `begin` starts its process on a port."""

    def __init__(self, port: int, begin: Callable[[int], Spawned], struck: Struck) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.began = 0.0  # when it was last started
        self.process: Spawned | None = None
        self._begin = begin
        self._struck = struck

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    def begin(self) -> Spawned:
        """Start it without waiting for it: servers may be away."""
        self.process = self._begin(self.port)
        self.began = time.monotonic()
        return self.process

    async def begin_and_wait(self) -> None:
        """Start it and wait until it accepts; again when it ends, as it does while Postgres is away."""
        while True:
            process = self.begin()
            deadline = time.monotonic() + SECONDS_TO_BEGIN
            while process.running and time.monotonic() < deadline:
                if await self.ready():
                    return
                await asyncio.sleep(0.1)
            process.kill_all()

    async def kill(self, slots: int = 0) -> None:
        """kill -9 it. Workers go on, so it may cost no run, unless `slots` says otherwise."""
        self._struck.strike("manager killed", slots)
        assert self.process is not None
        await asyncio.to_thread(self.process.kill)

    async def stop(self) -> None:
        """SIGTERM it, and wait for its end. No run is to be repeated for that."""
        self._struck.strike("manager stopped", 0)
        assert self.process is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 60)

    def freeze(self, slots: int = 0) -> None:
        """SIGSTOP it: it falls silent with all its connections open."""
        self._struck.strike("manager frozen", slots)
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    async def ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    def is_named(self, manager: object) -> bool:
        """True when the manager of this id is the one that runs, or ran last, here."""
        return self.process is not None and f'"manager": "{manager}"' in self.process.log()

    def _send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.running:
            self.process.send(number)
