"""scripts/services.py: what it starts answers, and is gone when it is, however it ends."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import pytest

from scripts import private_servers
from scripts.probes import postgres_fault, rabbit_fault, redis_fault
from tests.support import eventually, spawn

ROOT = Path(__file__).resolve().parents[2]
SIGNALLED_IN_POPEN = """
import os, pathlib, signal, subprocess, sys, time
from scripts import services

class Slow(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

ready = pathlib.Path(sys.argv.pop(1))
subprocess.Popen = Slow
sys.exit(services.main())
"""
SERVICES = (sys.executable, ROOT / "scripts" / "services.py", "run")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_private_servers_end_with_their_owner(number: signal.Signals) -> None:
    with (
        TemporaryDirectory(prefix="tacoq-", ignore_cleanup_errors=True) as folder,
        spawn(*SERVICES, "--private", "--no-fsync", "--redis", env={"TMPDIR": folder}) as process,
    ):
        Path(folder).chmod(0o755)  # for the account that Postgres runs as
        log = process.wait_for_log("TACOQ_RESULTS_URL=", timeout=150)
        urls = dict(line.split("=", 1) for line in log.splitlines() if "://" in line)
        assert postgres_fault(urls["TACOQ_DATABASE_URL"]) is None
        assert rabbit_fault(urls["TACOQ_BROKER_URL"]) is None
        assert redis_fault(urls["TACOQ_RESULTS_URL"]) is None
        process.send(number)
        process.wait()
        await eventually(lambda: postgres_fault(urls["TACOQ_DATABASE_URL"]))
        await eventually(lambda: rabbit_fault(urls["TACOQ_BROKER_URL"]))
        await eventually(lambda: redis_fault(urls["TACOQ_RESULTS_URL"]))


def test_command_gets_the_addresses_and_its_exit_code_is_ours(
    database_url: str, broker_url: str, redis_url: str
) -> None:
    up = {"TACOQ_DATABASE_URL": database_url, "TACOQ_BROKER_URL": broker_url, "TACOQ_RESULTS_URL": redis_url}
    with spawn(*SERVICES, "--redis", "--", "sh", "-c", "env | grep ^TACOQ_; exit 5", env=up) as process:
        assert process.wait() == 5
        assert {f"{name}={url}" for name, url in up.items()} <= set(process.log().split())


def test_command_is_told_to_end_when_we_are(database_url: str, broker_url: str) -> None:
    up = {"TACOQ_DATABASE_URL": database_url, "TACOQ_BROKER_URL": broker_url}
    waits = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    with spawn(*SERVICES, "--", "sh", "-c", waits, env=up) as process:
        process.wait_for_log("ready")
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
        assert "told" in process.log()


def test_command_is_told_to_end_also_while_it_is_begun(database_url: str, broker_url: str, tmp_path: Path) -> None:
    up = {"TACOQ_DATABASE_URL": database_url, "TACOQ_BROKER_URL": broker_url, "PYTHONPATH": str(ROOT)}
    ready = tmp_path / "ready"
    waits = f"trap 'echo told; exit 0' TERM; touch {ready}; while :; do sleep 0.1; done"
    with spawn(sys.executable, "-c", SIGNALLED_IN_POPEN, ready, "run", "--", "sh", "-c", waits, env=up) as process:
        assert process.wait() == 128 + signal.SIGTERM
        assert "told" in process.log()


def test_named_server_that_does_not_answer_is_an_error(database_url: str) -> None:
    up = {"TACOQ_DATABASE_URL": database_url, "TACOQ_BROKER_URL": "amqp://guest:guest@127.0.0.1:1/"}
    with spawn(*SERVICES, "--", "true", env=up) as process:
        assert process.wait() == 1
        assert "TACOQ_BROKER_URL names a server that cannot be used" in process.log()


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_servers, "rabbitmq_bin", lambda: None)
    with pytest.raises(private_servers.ServiceError, match="apt-get install rabbitmq-server"):
        private_servers.PrivateRabbit()


def test_a_redis_that_nobody_asks_for_is_not_looked_at(database_url: str, broker_url: str) -> None:
    up = {
        "TACOQ_DATABASE_URL": database_url,
        "TACOQ_BROKER_URL": broker_url,
        "TACOQ_RESULTS_URL": "redis://127.0.0.1:1",
    }
    with spawn(*SERVICES, "--", "true", env=up) as process:
        assert process.wait() == 0
    with spawn(*SERVICES, "--redis", "--", "true", env=up) as process:
        assert process.wait() == 1
        assert "TACOQ_RESULTS_URL names a server that cannot be used" in process.log()


@pytest.mark.parametrize(
    ("answer", "url", "fault"),
    [
        (b"+PONG\r\n", "redis://127.0.0.1", None),
        (b"-NOAUTH Authentication required.\r\n", "redis://:secret@127.0.0.1", None),
        (b"-NOAUTH Authentication required.\r\n", "redis://127.0.0.1", "NOAUTH Authentication required."),
    ],
)
def test_redis_is_up_when_it_answers_or_wants_the_password_that_is_given(
    answer: bytes, url: str, fault: str | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as link:
                link.recv(100)
                link.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        told = redis_fault(f"{url}:{listener.getsockname()[1]}")
        thread.join()
    assert told is None if fault is None else told is not None and fault in told
