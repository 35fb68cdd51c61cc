"""Children: one process per slot of a `Worker(executor="process")`. A release in, an outcome out.

A child that crashes, or is killed for a timeout or a cancel, takes only its own run with it; the next run
gets a new one. Children start by `spawn` (a fork of a process with threads may deadlock) and find handlers by
importing their module.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection

import msgspec

from tacoq_protocol.logs import configure_logging
from tacoq_protocol.messages import Outcome, Release
from tacoq_worker.execute import ProcessCrashed, Run, call_sync
from tacoq_worker.registry import AnyHandler, Handler

log = logging.getLogger("tacoq.worker")

_READY = b"ready"
_spawn = multiprocessing.get_context("spawn")
_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_request = msgspec.msgpack.Decoder(tuple[str, Release])
_outcome = msgspec.msgpack.Decoder(Outcome)


class Child:
    """The process of one slot. `start` and `call` are for the slot's thread, `kill` and `ready` for any."""

    def __init__(self, references: list[str]) -> None:
        self._references = references  # imported as soon as it starts
        self._lock = threading.Lock()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self.ready = False
        self._closed = False

    def start(self) -> None:
        """Return when the process has imported its handlers, or has died over it."""
        with self._lock:
            if not self._closed and not (self.ready and self._process is not None and self._process.is_alive()):
                self._start()

    def call(self, run: Run) -> Outcome:
        """Run the handler there and wait. Raises ProcessCrashed when the process ends instead, also by `kill`."""
        self.start()
        with self._lock:
            if run.stop is not None:  # `kill` may have come before there was anything to kill
                raise ProcessCrashed("the run was stopped before its process had it")
            if self._pipe is not None and self.ready:
                try:
                    self._pipe.send_bytes(_encoder.encode((run.handler.reference, run.release)))
                    outcome: Outcome = _outcome.decode(self._pipe.recv_bytes())
                    return outcome
                except (EOFError, OSError):
                    self.ready = False
            raise ProcessCrashed(f"the process of the run {self._ending()}")

    def kill(self) -> None:
        """End the process now, whatever it does."""
        process = self._process
        if process is not None:
            self.ready = False
            process.kill()

    def close(self) -> None:
        """Kill it for good, and wait until it is gone."""
        self._closed = True
        self.kill()
        if self._process is not None:
            self._process.join(5.0)

    def _start(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._pipe, theirs = _spawn.Pipe()
        root = logging.getLogger()
        level = root.getEffectiveLevel() if root.handlers else None
        process = _spawn.Process(target=_serve, args=(theirs, self._references, level), name="tacoq-slot", daemon=True)
        process.start()
        self._process = process
        theirs.close()
        try:
            self.ready = self._pipe.recv_bytes() == _READY
        except (EOFError, OSError):
            self.ready = False

    def _ending(self) -> str:
        process = self._process
        if process is None:
            return "was not started"
        process.join(5.0)
        code = process.exitcode
        if code is None:
            return "closed its pipe"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def _serve(pipe: Connection, references: list[str], level: int | None) -> None:
    """The child's main: run what comes, one at a time, until told to stop or the parent is gone."""
    ending = _Ending()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if level is not None:
        configure_logging(logging.getLevelName(level))
    for reference in references:
        try:
            _handler(reference)
        except Exception:  # the run that needs it will say so again, in its outcome
            log.exception("handler cannot be imported", extra={"handler": reference})
    pipe.send_bytes(_READY)
    while not ending.asked:
        ending.idle = True
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        ending.idle = False
        pipe.send_bytes(_encoder.encode(_run(*_request.decode(request))))


def _run(reference: str, release: Release) -> Outcome:
    run = Run(release, _handler(reference))
    run.begin()
    return call_sync(run)


@functools.cache
def _handler(reference: str) -> AnyHandler:
    module, _, name = reference.partition(":")
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, Handler):
        raise TypeError(f"{reference} is not a handler, but {found!r}: its module-level name must keep the handler")
    return found


class _Ending:
    """SIGTERM ends an idle child at once, a busy one after its run.

    It comes from service managers that signal the whole group; what is to stop, the session kills.
    """

    def __init__(self) -> None:
        self.asked = False
        self.idle = False
        signal.signal(signal.SIGTERM, lambda *_: self._ask())
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _ask(self) -> None:
        self.asked = True
        if self.idle:
            os._exit(0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
