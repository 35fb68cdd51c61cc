"""Installed binaries in; a Postgres, RabbitMQ or Redis of our own out: to use, kill, restart, never left behind."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil

from scripts.probes import free_port, postgres_fault, rabbit_fault, redis_fault

# The package to install and the variable that names a running server instead, for each binary.
NEEDED = {
    "postgres": ("postgresql", "TACOQ_DATABASE_URL"),
    "rabbitmq-server": ("rabbitmq-server", "TACOQ_BROKER_URL"),
    "redis-server": ("redis-server", "TACOQ_RESULTS_URL"),
}

# The shell starts a watchdog and becomes the server, so the server's pid is the one that Popen knows. The
# watchdog reads the pipe whose other end we hold: however we end, it then ends the whole process group. It is nobody's
# child, as Postgres takes the death of a child that it does not know for a crash of its own.
WATCHED = 'exec 3<&0; ( ( read -r _; kill -KILL 0 ) <&3 & ); exec 3<&- "$@" </dev/null'


class ServiceError(Exception):
    """A server is missing or did not start; the message says what to do."""


class _PrivateServer:
    """A server of our own in a temporary folder, on the same port and data from start to start."""

    name: str
    seconds_to_start = 60.0

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"tacoq-{self.name}-"))
        self.log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False

    def _prepare(self) -> None:
        """Once, before the first start."""

    def _launch(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def _fault(self) -> str | None:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServiceError(f"the private {self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return when it answers."""
        if self.running:
            return
        if not self._prepared:
            self._prepare()
            self._prepared = True
        self._release()
        self._process = self._launch()
        deadline = time.monotonic() + self.seconds_to_start
        while (fault := self._fault()) is not None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
                self.kill()
                raise ServiceError(f"the private {self.name} did not start: {fault}\n{tail}")
            time.sleep(0.1)

    def stop(self, seconds: float = 30.0) -> None:
        """End it in good order: all that it was told is on disk when this returns."""
        if self._process is not None:
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    stop_signal = signal.SIGTERM

    def kill(self) -> None:
        """End it as kill -9 does, with all its processes."""
        if self._process is not None:
            if self.running:
                self.thaw()  # what stands still does not see the end of its server
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its own session: the server and the watchdog
            self._process.wait()
        self._release()

    def freeze(self) -> None:
        """Let it stand still with its connections open, as a machine does that is cut off or overloaded."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        """Not by process group: Postgres's sessions have groups of their own, and the watchdog must go on."""
        server = psutil.Process(self.pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def close(self) -> None:
        """Kill it and remove its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _release(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def _spawn(
        self, command: Sequence[str | Path], *, env: dict[str, str] | None = None, user: int | None = None
    ) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", WATCHED, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.directory,
                env=env,
                **_as_user(user),
            )


class PrivatePostgres(_PrivateServer):
    """`fsync=False` is for tests: data then outlive a kill -9 of the server, but not a power cut."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast: ends sessions, then shuts down

    def __init__(self, *, fsync: bool = True) -> None:
        self._bin = postgres_bin() or _missing("postgres")
        super().__init__()
        self._fsync = fsync
        self._port = free_port()
        self._user = _ordinary_user("postgres")

    @property
    def database_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def _prepare(self) -> None:
        if self._user is not None:
            os.chown(self.directory, self._user, -1)
        data = str(self.directory / "data")
        initdb = [str(self._bin / "initdb"), "-D", data, "-U", "postgres", "--auth=trust"]
        done = subprocess.run(
            [*initdb, "--encoding=UTF8", "--no-locale", "--no-sync"],
            capture_output=True,
            text=True,
            cwd=self.directory,
            check=False,
            **_as_user(self._user),
        )
        if done.returncode:
            raise ServiceError(f"initdb failed: {done.stderr}")

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = {
            "port": self._port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "fsync": "on" if self._fsync else "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._spawn([self._bin / "postgres", "-D", self.directory / "data", *options], user=self._user)

    def _fault(self) -> str | None:
        if not self.running and "shared memory block" in self.log.read_text()[-1000:]:
            # After a kill -9 the old server's sessions may hold its shared memory for some milliseconds.
            self._release()
            time.sleep(0.1)
            self._process = self._launch()
        return postgres_fault(self.database_url)


class PrivateRabbit(_PrivateServer):
    name = "rabbitmq"
    seconds_to_start = 120.0

    def __init__(self) -> None:
        self._bin = rabbitmq_bin() or _missing("rabbitmq-server")
        super().__init__()
        self._port, self._dist_port, self._epmd_port = free_port(), free_port(), free_port()
        self._node = f"tacoq{self._port}@localhost"
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def broker_url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}/"

    def ctl(self, *arguments: str, seconds: float = 60.0) -> str:
        """Run rabbitmqctl on this node; return what it prints. Costs about a second."""
        command = [str(self._bin / "rabbitmqctl"), "--quiet", "--node", self._node, *arguments]
        done = subprocess.run(command, env=self._env(), capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode:
            raise ServiceError(f"rabbitmqctl {' '.join(arguments)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def wipe(self) -> None:
        """Stop it and start it anew with nothing in it, on the same address."""
        self.stop()
        shutil.rmtree(self.directory / "data")
        self.start()

    def kill(self) -> None:
        super().kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            assert self._epmd.stdin is not None
            self._epmd.stdin.close()
            self._epmd = None

    def _env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        here = self.directory
        return inherited | {
            "HOME": str(here),
            # Our own name service: the machine's would be started as a daemon and outlive us.
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here / "logs"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            # The start script then becomes the Erlang machine instead of its parent.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_START_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _prepare(self) -> None:
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(os.urandom(16).hex())
        cookie.chmod(0o400)
        (self.directory / "rabbitmq-env.conf").touch()
        (self.directory / "enabled_plugins").write_text("[].\n")
        # Small machines: the default limits would raise an alarm, which stops all publishing.
        (self.directory / "rabbitmq.conf").write_text("disk_free_limit.absolute = 50MB\n")

    def _launch(self) -> subprocess.Popen[bytes]:
        epmd = shutil.which("epmd") or next(map(str, Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), "epmd")
        self._epmd = self._spawn([epmd, "-address", "127.0.0.1", "-port", str(self._epmd_port)])
        return self._spawn([self._bin / "rabbitmq-server"], env=self._env())

    def _fault(self) -> str | None:
        return rabbit_fault(self.broker_url)


class PrivateRedis(_PrivateServer):
    """As it is installed: snapshots from time to time, no log of each write."""

    name = "redis"

    def __init__(self) -> None:
        self._bin = shutil.which("redis-server") or _missing("redis-server")
        super().__init__()
        self._port = free_port()

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def _launch(self) -> subprocess.Popen[bytes]:
        return self._spawn([self._bin, "--bind", "127.0.0.1", "--port", str(self._port), "--dir", self.directory])

    def _fault(self) -> str | None:
        return redis_fault(self.redis_url)


def _as_user(user: int | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "group": pwd.getpwuid(user).pw_gid, "extra_groups": []}


def _ordinary_user(*names: str) -> int | None:
    """Return the user to run as when we are root, which Postgres refuses to be; None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in (*names, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return 65534


def postgres_bin() -> Path | None:
    """The folder of the newest installed Postgres server."""
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    installed.sort(key=lambda folder: int(folder.parent.name) if folder.parent.name.isdigit() else 0)
    on_path = shutil.which("postgres")
    if on_path is not None:
        installed.insert(0, Path(on_path).resolve().parent)
    return next((folder for folder in reversed(installed) if (folder / "initdb").exists()), None)


def rabbitmq_bin() -> Path | None:
    """The folder of the real rabbitmq-server: Debian's wrapper on the PATH drops our environment."""
    folders = [Path("/usr/lib/rabbitmq/bin"), Path("/opt/homebrew/sbin"), Path("/usr/local/sbin")]
    on_path = shutil.which("rabbitmq-server")
    if on_path is not None and Path(on_path).resolve().name == "rabbitmq-server":
        folders.insert(0, Path(on_path).parent)
    return next((folder for folder in folders if (folder / "rabbitmq-server").exists()), None)


def _missing(binary: str) -> NoReturn:
    package, variable = NEEDED[binary]
    raise ServiceError(
        f"{binary} is not installed, and no server answers at its default address: as root on Debian "
        f"`apt-get install {package}`, or name a running server in {variable}"
    )
