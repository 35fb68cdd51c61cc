"""The parts of TacoQ as processes of their own, embedded or with RabbitMQ and Postgres; a manager's URL out."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from scripts.cleanup import delete_topology, drop_database
from scripts.probes import free_port
from scripts.services import services

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60
STOP_SECONDS = 30


@contextmanager
def embedded(worker: str) -> Iterator[str]:
    """Run `tacoq dev` with the worker MODULE:OBJECT, everything in one process, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="tacoq-demo-") as folder:
        port = free_port()
        with _process("dev", worker, "--port", str(port), folder=Path(folder)) as dev:
            yield _ready(port, dev)


@contextmanager
def on_rabbitmq(worker: str, *, queue: str, workers: int = 2) -> Iterator[str]:
    """Run a manager and `workers` workers of `queue` on real servers, in a database and under a prefix of their own."""
    with services() as up, tempfile.TemporaryDirectory(prefix="tacoq-demo-") as folder:
        name = f"tacoq_demo_{secrets.token_hex(4)}"
        environment = {
            "TACOQ_DATABASE_URL": urlsplit(up.database_url)._replace(path=f"/{name}").geturl(),
            "TACOQ_BROKER_URL": up.broker_url,
            "TACOQ_NAMESPACE": name,
        }
        print(f"RabbitMQ {_address(up.broker_url)}, Postgres {_address(up.database_url)}, database and prefix {name}")
        with ExitStack() as stack:
            stack.callback(lambda: asyncio.run(_remove(name, queue, up.database_url, up.broker_url)))
            subprocess.run(_tacoq("migrate"), env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
            port = free_port()
            manager = stack.enter_context(
                _process("manager", "--port", str(port), folder=Path(folder), environment=environment)
            )
            url = _ready(port, manager)
            for _ in range(workers):
                stack.enter_context(_process("worker", worker, folder=Path(folder), environment=environment))
            yield url


def _tacoq(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("tacoq")), *arguments]


@contextmanager
def _process(
    *arguments: str, folder: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `tacoq …` with its log in `folder`; end it, and show the log when it did not end well."""
    log = folder / f"{arguments[0]}-{secrets.token_hex(2)}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _tacoq(*arguments),
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is for us, who then end it
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code not in (0, -signal.SIGTERM):
            print(f"`tacoq {' '.join(arguments)}` ended with {code}:\n{_tail(log)}", file=sys.stderr)


def _ready(port: int, process: subprocess.Popen[bytes]) -> str:
    """Wait until the manager answers on `port`; return its URL."""
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return url
        except (urllib.error.URLError, OSError) as error:
            if process.poll() is not None:
                raise SystemExit(f"the manager ended with {process.returncode} before it was ready") from error
            if time.monotonic() > deadline:
                raise SystemExit(f"the manager was not ready after {START_SECONDS} s: {error}") from error
            time.sleep(0.05)


async def _remove(name: str, queue: str, database_url: str, broker_url: str) -> None:
    """Drop the demo's database, and its queues and exchanges."""
    await drop_database(database_url, name)
    await delete_topology(broker_url, name, queues=[queue])


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
