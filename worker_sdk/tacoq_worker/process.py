"""One session process: loads a worker, tells its supervisor, and on its word runs one session to the end.

`python -m tacoq_worker.process MODULE:OBJECT SESSION FD [LABEL…]`. On the socket FD it writes one line of JSON,
{"queue": …} or {"error": …}, and waits for the line `go`. SIGTERM drains. So does the end of the socket: the
supervisor is dead, and its processes must not outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.labels import parse_labels
from tacoq_protocol.logs import configure_logging
from tacoq_worker.execute import clean
from tacoq_worker.loading import load_worker
from tacoq_worker.session import Session
from tacoq_worker.settings import Pace, WorkerSettings, load_settings
from tacoq_worker.worker import Worker

log = logging.getLogger("tacoq.worker")

EXIT_NOT_LOADED = 2
EXIT_LEFT_BEHIND = 3  # a thread did not stop, or the last reports were not confirmed
EXIT_ORPHANED = 4
SECONDS_AFTER_GRACE = 20.0  # to cancel, report and leave
MAX_ERROR_CHARS = 32_000
LAST_SECONDS = 2.0  # for what the application does at exit


def main(target: str, session: str, fd: str, *labels: str) -> int:
    """Run to the end; return the exit code: 0 only when nothing was left behind."""
    settings = load_settings()
    configure_logging(settings.log_level)
    ending = _Ending()
    supervisor = socket.socket(fileno=int(fd))
    supervisor.set_inheritable(False)
    try:
        worker = load_worker(target)
    except ConfigurationError as error:
        _tell(supervisor, error=clean(str(error), MAX_ERROR_CHARS))
        return EXIT_NOT_LOADED
    _tell(supervisor, queue=worker.queue)
    if supervisor.recv(16) != b"go\n":
        return 0
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        left = runner.run(_run(worker, settings, UUID(session), supervisor, ending, labels))
        if not left:
            _exit(EXIT_LEFT_BEHIND)  # the interpreter would wait for the thread
        end_soon()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the interpreter's own end would put back the default
    return 0


async def _run(
    worker: Worker,
    settings: WorkerSettings,
    id: UUID,
    supervisor: socket.socket,
    ending: _Ending,
    labels: Sequence[str],
) -> bool:
    grace = settings.shutdown_grace.total_seconds()
    session = Session(
        worker,
        lambda name: RabbitBroker(settings.broker_url, name),
        settings.topology,
        grace=grace,
        id=id,
        pace=Pace(ack_deadline=settings.ack_deadline.total_seconds()),
        labels={**settings.labels, **parse_labels(labels)},
    )
    loop = asyncio.get_running_loop()
    ending.drain = functools.partial(loop.call_soon_threadsafe, session.begin_drain)
    threading.Thread(target=_outlive_nobody, args=(supervisor, ending, grace), daemon=True).start()
    await session.start()
    return await session.ended()


class _Ending:
    """SIGTERM: exit while there is no session, drain it, and then nothing: it may come again while we leave.

    Not the loop's own signal handling, which ends with the loop and leaves the last moments to the default: death.
    """

    def __init__(self) -> None:
        self.drain: Callable[[], object] | None = None
        signal.signal(signal.SIGTERM, lambda *_: self.begin())
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the supervisor's, which drains us

    def begin(self) -> None:
        if self.drain is None:
            os._exit(0)
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self.drain()


def end_soon() -> None:
    """All is handed back: end this process although threads that handlers started go on, however long they sleep.

    The loop's end and the interpreter's would wait for them.
    """
    timer = threading.Timer(LAST_SECONDS, _exit, [0])
    timer.daemon = True
    timer.start()


def _exit(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _outlive_nobody(supervisor: socket.socket, ending: _Ending, grace: float) -> None:
    while supervisor.recv(16):
        pass
    log.error("the supervisor is gone: draining")
    ending.begin()
    time.sleep(grace + SECONDS_AFTER_GRACE)
    os._exit(EXIT_ORPHANED)


def _tell(supervisor: socket.socket, **answer: str) -> None:
    supervisor.sendall(json.dumps(answer).encode() + b"\n")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
