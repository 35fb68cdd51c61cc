"""Supervise: keep N session processes of each worker; tell managers of dead ones at once; swap code that changes.

The parent never imports the application: a process that cannot load it says so and ends, and what ran goes
on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from tacoq_protocol.broker import Broker, Declared, Outgoing
from tacoq_protocol.codec import PRESENCE, encode
from tacoq_protocol.errors import BrokerError, ConfigurationError
from tacoq_protocol.labels import NO_LABELS
from tacoq_protocol.messages import Lost
from tacoq_protocol.topology import Topology
from tacoq_worker.process import SECONDS_AFTER_GRACE

log = logging.getLogger("tacoq.supervisor")

STEADY_SECONDS = 10.0  # a process that lived this long is started again at once
MAX_RESTART_DELAY = 30.0
MAX_ANSWER_BYTES = 1024 * 1024  # of a process that has loaded the code, or has not
LAST_NEWS_SECONDS = 5.0  # to tell of losses, at the end


@dataclass(eq=False)
class _Child:
    """A session process that has loaded the code. `retired`: it was told to end."""

    target: str
    session: UUID
    queue: str
    process: asyncio.subprocess.Process
    pipe: asyncio.StreamWriter
    began: float = 0.0
    retired: bool = False

    def go(self) -> None:
        self.began = time.monotonic()
        self.pipe.write(b"go\n")

    def retire(self) -> None:
        """Let it drain. Idempotent."""
        if not self.retired:
            self.retired = True
            self.signal(signal.SIGTERM)

    def drop(self) -> None:
        """It is not wanted any more, and has not begun."""
        self.signal(signal.SIGKILL)
        self.pipe.close()

    def signal(self, number: int) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """The parent of `tacoq worker`. `run` returns the exit code."""

    def __init__(
        self,
        targets: Sequence[str],
        *,
        processes: int,
        broker: Broker,
        topology: Topology,
        grace: float,
        labels: Mapping[str, str] = NO_LABELS,
    ) -> None:
        self._wanted = [target for target in targets for _ in range(processes)]
        self._broker = broker
        self._topology = topology
        self._grace = grace
        self._labels = [f"{name}={value}" for name, value in labels.items()]
        self._children: set[_Child] = set()
        self._loading: set[asyncio.subprocess.Process] = set()
        self._code = 0  # how often it was replaced by newer
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()  # a child ended, or a restart did
        self._tasks: set[asyncio.Task[None]] = set()
        self._quick_deaths = 0
        self._left_behind = False

    async def run(self, *, reload: bool = False) -> int:
        """Run until stopped, or until every process was drained by a manager.

        Raises ConfigurationError when the code cannot be loaded at the start; with `reload` it waits for other code.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self._broker.start()
        await self._broker.declare(Declared(exchanges=[self._topology.presence]))
        watching = loop.create_task(self._reload_on_change()) if reload else None
        try:
            waits = False
            try:
                await self._start(self._wanted)
            except ConfigurationError as error:
                if not self._stopping.is_set():
                    if not reload:
                        raise
                    log.error("the code cannot be loaded; waiting for a change", extra={"reason": str(error)})
                waits = reload
            while self._children or self._tasks or (waits and not (self._code or self._stopping.is_set())):
                self._changed.clear()
                await self._changed.wait()
        finally:
            if watching is not None:
                watching.cancel()
            self._kill()
            await self._broker.stop()
        return 1 if self._left_behind else 0

    def stop(self) -> None:
        """First: drain every process, and kill those that take too long. Second: kill them."""
        if self._stopping.is_set():
            log.warning("second signal: killing the session processes")
            self._kill()
            return
        log.info("stopping", extra={"processes": len(self._children)})
        self._stopping.set()
        self._changed.set()
        for process in self._loading:
            process.kill()
        for child in self._children:
            child.retire()
        asyncio.get_running_loop().call_later(self._grace + SECONDS_AFTER_GRACE, self._kill)

    async def reload(self) -> bool:
        """Replace every process by one with the code as it is now; False when that cannot be loaded."""
        try:
            fresh = await self._load(self._wanted)
        except Exception as error:
            unforeseen = None if isinstance(error, (ConfigurationError, OSError)) else error
            log.error("new code cannot be loaded; the old goes on", exc_info=unforeseen, extra={"reason": str(error)})
            return False
        self._code += 1
        for process in self._loading:
            process.kill()
        for child in self._children:
            child.retire()
        for child in fresh:
            self._go(child)
        log.info("code reloaded", extra={"processes": len(fresh)})
        return True

    async def _reload_on_change(self) -> None:
        from tacoq_worker.watching import react_to_changes

        async def reload(files: Sequence[str]) -> bool:
            log.info("code changed", extra={"files": files})
            if not self._stopping.is_set():
                await self.reload()
            return self._stopping.is_set()

        await react_to_changes(reload)

    async def _start(self, targets: Sequence[str]) -> None:
        """Load and run these, unless newer code comes to run meanwhile: all are there then. Raises as `_load`."""
        code = self._code
        try:
            loaded = await self._load(targets)
        except (ConfigurationError, OSError):
            if code == self._code:
                raise
            return
        for child in loaded:
            if code == self._code:
                self._go(child)
            else:
                child.drop()

    async def _load(self, targets: Sequence[str]) -> list[_Child]:
        """Start processes and wait until each has loaded the code. Raises ConfigurationError, with none left."""
        loading = [asyncio.ensure_future(self._load_one(target)) for target in targets]
        try:
            return list(await asyncio.gather(*loading))
        except BaseException:  # a newer change, too, may be why they are not wanted any more
            for child in loading:
                child.cancel()
            for loaded in await asyncio.gather(*loading, return_exceptions=True):
                if isinstance(loaded, _Child):
                    loaded.drop()
            raise

    async def _load_one(self, target: str) -> _Child:
        session = uuid4()
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tacoq_worker.process", target, str(session), str(theirs.fileno()),
                *self._labels, stdin=asyncio.subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        self._loading.add(process)
        pipe: asyncio.StreamWriter | None = None
        try:
            reader, pipe = await asyncio.open_connection(sock=ours, limit=MAX_ANSWER_BYTES)
            answer = await _answer(reader)
            if "queue" in answer:
                return _Child(target, session, answer["queue"], process, pipe)
            if "error" in answer:  # it may have threads that go on
                raise ConfigurationError(answer["error"])
            raise ConfigurationError(f"{target!r}: loading it {_ending(await process.wait())}")
        except BaseException:
            if process.returncode is None:
                process.kill()
            if pipe is not None:
                pipe.close()
            raise
        finally:
            self._loading.discard(process)

    def _go(self, child: _Child) -> None:
        if self._stopping.is_set():
            child.drop()
            return
        child.go()
        self._children.add(child)
        self._run(self._watch(child))

    async def _watch(self, child: _Child) -> None:
        """Until this process ends; then tell of it, and have another one."""
        code = await child.process.wait()
        self._children.discard(child)
        child.pipe.close()
        fields = {"session": str(child.session), "pid": child.process.pid, "detail": _ending(code)}
        if code != 0:
            self._left_behind = self._left_behind or self._stopping.is_set()
            log.warning("session process died", extra=fields)
            self._run(self._tell_lost(child, _ending(code)))
            if not child.retired:
                await self._restart(child.target, time.monotonic() - child.began)
        else:  # it left in order: stopped, replaced, or drained by a manager
            log.info("session process ended", extra=fields)

    async def _restart(self, target: str, lived: float) -> None:
        self._quick_deaths = 0 if lived > STEADY_SECONDS else self._quick_deaths + 1
        while not self._stopping.is_set():
            if self._quick_deaths > 1:
                delay = min(MAX_RESTART_DELAY, 0.5 * 2.0 ** (self._quick_deaths - 2))
                await _unless(self._stopping, delay)
            try:
                await self._start([] if self._stopping.is_set() else [target])
                return
            except (ConfigurationError, OSError) as error:  # the machine may have no room for a process now
                self._quick_deaths += 1
                log.error("session process not restarted", extra={"reason": str(error)})

    async def _tell_lost(self, child: _Child, detail: str) -> None:
        """Tell managers, until one publish is confirmed: they would find out themselves, a lease later."""
        lost = encode(Lost(child.session, child.queue, detail))
        message = Outgoing(self._topology.presence.name, "", PRESENCE.name, lost, mandatory=False)
        until = time.monotonic() + LAST_NEWS_SECONDS
        while not self._stopping.is_set() or time.monotonic() < until:
            try:
                await self._broker.publish([message], seconds=LAST_NEWS_SECONDS)
                return
            except BrokerError as error:
                log.debug("loss not told yet", extra={"reason": str(error)})
                await asyncio.sleep(0.2)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("supervisor task failed", exc_info=task.exception())

    def _kill(self) -> None:
        for child in self._children:
            child.signal(signal.SIGKILL)
        for process in self._loading:
            process.kill()


async def _answer(reader: asyncio.StreamReader) -> dict[str, str]:
    """What a process says when it has loaded the code, or cannot; nothing when it ends before."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return {}
    answer: dict[str, str] = json.loads(line) if line else {}
    return answer


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or less when `event` is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
