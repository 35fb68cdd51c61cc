"""What is up, installed or installable in; a Postgres and a RabbitMQ that answer out, nothing left behind.

Both are taken from TACOQ_DATABASE_URL and TACOQ_BROKER_URL, else from their default addresses when they
answer there, else started privately from installed binaries, else (Debian, root) installed first. So is a
Redis, from TACOQ_RESULTS_URL, for the tests and the benchmarks, which ask for it, and a browser, the program that
TACOQ_TEST_BROWSER names, for the tests.

    python scripts/services.py run [--private] [--no-fsync] [--redis] [--browser] [-- COMMAND …]

runs COMMAND with these variables set, or, without one, prints the addresses and waits for Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, as for those who import us

from scripts.browser import find_browser, needed_browser
from scripts.private_servers import (
    NEEDED,
    PrivatePostgres,
    PrivateRabbit,
    PrivateRedis,
    ServiceError,
    postgres_bin,
    rabbitmq_bin,
)
from scripts.probes import postgres_fault, rabbit_fault, redis_fault

__all__ = ["PrivatePostgres", "PrivateRabbit", "PrivateRedis", "ServiceError", "Services", "services"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEFAULT_DATABASE_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
DEFAULT_BROKER_URL = "amqp://guest:guest@127.0.0.1:5672/"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


def _install_missing(packages: Sequence[str]) -> None:
    """On Debian as root install what is missing; without starting it, so that only private servers run."""
    if not packages or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print(f"installing {' '.join(packages)} …", file=sys.stderr)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", *packages]):
        done = subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise ServiceError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")


@dataclass(frozen=True)
class Services:
    database_url: str
    broker_url: str
    redis_url: str | None = None  # of those who asked for it
    browser: str | None = None  # its program, for those who asked for it


@contextlib.contextmanager
def services(
    environ: Mapping[str, str] = os.environ,
    *,
    private: bool = False,
    fsync: bool = True,
    redis: bool = False,
    browser: bool = False,
) -> Iterator[Services]:
    """Yield addresses that answer; end what was started for it. `private` passes over those that are up."""
    database_url = None if private else _up(environ, "TACOQ_DATABASE_URL", DEFAULT_DATABASE_URL, postgres_fault)
    broker_url = None if private else _up(environ, "TACOQ_BROKER_URL", DEFAULT_BROKER_URL, rabbit_fault)
    redis_url = None if private or not redis else _up(environ, "TACOQ_RESULTS_URL", DEFAULT_REDIS_URL, redis_fault)
    lacking = [] if database_url or postgres_bin() else [NEEDED["postgres"][0]]
    lacking += [] if broker_url or rabbitmq_bin() else [NEEDED["rabbitmq-server"][0]]
    lacking += [] if not redis or redis_url or shutil.which("redis-server") else [NEEDED["redis-server"][0]]
    lacking += [] if not browser or find_browser(environ) else ["chromium"]
    _install_missing(lacking)
    with contextlib.ExitStack() as stack:
        if database_url is None:
            postgres = stack.enter_context(contextlib.closing(PrivatePostgres(fsync=fsync)))
            postgres.start()
            database_url = postgres.database_url
        if broker_url is None:
            rabbit = stack.enter_context(contextlib.closing(PrivateRabbit()))
            rabbit.start()
            broker_url = rabbit.broker_url
        if redis and redis_url is None:
            store = stack.enter_context(contextlib.closing(PrivateRedis()))
            store.start()
            redis_url = store.redis_url
        yield Services(database_url, broker_url, redis_url, needed_browser(environ) if browser else None)


def _up(environ: Mapping[str, str], variable: str, default: str, fault_of: Callable[[str], str | None]) -> str | None:
    """Return the named address, or the default one when it answers. A named one that does not is an error."""
    named = environ.get(variable)
    fault = fault_of(named or default)
    if named and fault:
        raise ServiceError(f"{variable} names a server that cannot be used: {fault}")
    return None if fault else named or default


def _run(command: Sequence[str], env: dict[str, str]) -> int:
    """Run the command to its end; when we are told to end, tell it so and wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # one that came while it is begun would leave it without us
    with subprocess.Popen(command, env=env, preexec_fn=_hear) as process:
        try:
            _hear()
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _hear() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(
        usage="services.py run [--private] [--no-fsync] [--redis] [--browser] [-- COMMAND …]"
    )
    parser.add_argument("action", choices=["run"])
    parser.add_argument("--private", action="store_true", help="start own servers even when others are up")
    parser.add_argument("--no-fsync", action="store_true", help="for tests: own data need not outlive a power cut")
    parser.add_argument("--redis", action="store_true", help="a Redis, too")
    parser.add_argument("--browser", action="store_true", help="a browser, too")
    words = [*sys.argv[1:], "--"]
    ours, command = words[: words.index("--")], words[words.index("--") + 1 : -1]
    arguments = parser.parse_args(ours)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        fsync = not arguments.no_fsync
        with services(private=arguments.private, fsync=fsync, redis=arguments.redis, browser=arguments.browser) as up:
            urls = {"TACOQ_DATABASE_URL": up.database_url, "TACOQ_BROKER_URL": up.broker_url}
            urls |= {} if up.redis_url is None else {"TACOQ_RESULTS_URL": up.redis_url}
            urls |= {} if up.browser is None else {"TACOQ_TEST_BROWSER": up.browser}
            if command:
                return _run(command, os.environ | urls)
            print("\n".join(f"{name}={url}" for name, url in urls.items()), flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 130
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
