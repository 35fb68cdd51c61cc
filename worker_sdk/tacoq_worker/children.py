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
from multiprocessing.connection import Connection, wait

import msgspec

from tacoq_protocol.logs import configure_logging
from tacoq_protocol.messages import Outcome, Release
from tacoq_protocol.trace import trace_of
from tacoq_worker.execute import ProcessCrashed, Run, call_sync
from tacoq_worker.registry import AnyHandler, Handler

log = logging.getLogger("tacoq.worker")

_READY = b"ready"
_LEAVING = b"leaving"  # it was told to end, and will read no more
_TRIES = 3  # processes to offer a run to
_spawn = multiprocessing.get_context("spawn")
_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_request = msgspec.msgpack.Decoder(tuple[str, Release])
_outcome = msgspec.msgpack.Decoder(Outcome)


class Child:
    """The process of one slot. `start` and `call` are for the slot's thread, `kill` and `ready` for any."""

    def __init__(self, references: list[str]) -> None:
        self._references = references  # imported as soon as it starts
        self._lock = threading.Lock()  # held while a process starts or runs something
        self._ends = threading.Lock()  # held for a moment, by what may end one
        self._doomed = False
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self.ready = False
        self._closed = False

    def start(self, run: Run | None = None) -> None:
        """Return when the process has imported its handlers, or has died over it.

        When it is started for a run that was stopped, nothing is done: `kill` may have come before it.
        """
        with self._lock:
            if self._closed or (run is not None and run.stop is not None):
                return
            if not (self.ready and self._process is not None and self._process.is_alive()):
                self._start()

    def call(self, run: Run) -> Outcome:
        """Run the handler there and wait. Raises ProcessCrashed when the process ends instead, also by `kill`."""
        release = run.release
        if run.span is not None:  # which is made here; what the handler makes there are its children
            traceparent, tracestate = trace_of(run.span)
            release = msgspec.structs.replace(release, traceparent=traceparent, tracestate=tracestate)
        request = _encoder.encode((run.handler.reference, release))
        for _ in range(_TRIES):
            self.start(run)
            with self._lock:
                if run.stop is not None:
                    raise ProcessCrashed("the run was stopped before its process had it")
                answer = self._ask(request)
            if answer is not None:
                outcome: Outcome = _outcome.decode(answer)
                return outcome
        raise ProcessCrashed(f"no process took the run; the last one {self._ending()}")

    def _ask(self, request: bytes) -> bytes | None:
        """Return what the process answers, None when it ended without having read the request."""
        if self._pipe is not None and self.ready:
            try:
                self._pipe.send_bytes(request)
            except OSError:
                self.ready = False
                return None
            try:
                answer = self._pipe.recv_bytes()
            except (EOFError, OSError):
                self.ready = False
            else:
                self.ready = answer != _LEAVING
                return answer if self.ready else None
        raise ProcessCrashed(f"the process of the run {self._ending()}")

    def kill(self) -> None:
        """End the process now, whatever it does."""
        with self._ends:
            self._doomed = True  # one that is about to start is not there yet
            self.ready = False
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Kill it for good, and wait until it is gone."""
        self._closed = True
        self.kill()
        if self._process is not None:
            self._process.join(5.0)

    def _start(self) -> None:
        self._doomed = False
        if self._pipe is not None:
            self._pipe.close()
        self._pipe, theirs = _spawn.Pipe()
        root = logging.getLogger()
        level = root.getEffectiveLevel() if root.handlers else None
        process = _spawn.Process(target=_serve, args=(theirs, self._references, level), name="tacoq-slot", daemon=True)
        process.start()
        with self._ends:
            self._process = process
            if self._doomed or self._closed:  # meanwhile
                process.kill()
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
    while pipe in wait([pipe, ending.told]):  # what came before it was told to end is run
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_encoder.encode(_run(*_request.decode(request))))
    with contextlib.suppress(OSError):  # the parent is gone
        pipe.send_bytes(_LEAVING)


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
    """SIGTERM ends an idle child at once, a busy one after its run: `told` becomes readable.

    It comes from service managers that signal the whole group; what is to stop, the session kills. The handler itself
    ends nothing: it may run between the arrival of a request and the first line that knows of it.
    """

    def __init__(self) -> None:
        self.told, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        signal.signal(signal.SIGTERM, lambda *_: self._ask())
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _ask(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was told often enough
            os.write(self._tell, b".")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
