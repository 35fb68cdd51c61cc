"""A directory in; a Postgres on a unix socket out, that keeps its data there and ends with its owner.

    async with EmbeddedPostgres(".tacoq") as pg:
        await asyncpg.connect(pg.url)

The owner holds a lock on the directory. A watchdog beside the server reads a pipe whose other end the owner holds:
when the owner ends, however it ends, the server shuts down in good order. A server that should still be there (its
watchdog was killed too) is shut down by the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from tacoq_embedded.pginstall import (
    Account,
    EmbeddedPostgresError,
    account_for,
    as_account,
    make_home,
    programs_for,
)

HANDOVER = "TACOQ_EMBEDDED_POSTGRES"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
# The kernel's limit is 107 bytes on Linux, 103 on macOS; Postgres adds a name of 18 and, for its lock, 5 more. A comma
# would separate hosts in the URL.
SOCKET_FOLDER = re.compile(r"[A-Za-z0-9_./+@ -]{1,80}")

# The shell leaves a watchdog behind and becomes the server. SIGINT is Postgres's fast shutdown; sessions are in
# process groups of their own, so the group is the server and the watchdog. The watchdog is nobody's child: Postgres
# takes the death of a child that it does not know for a crash of its own.
_WATCHED = 'exec 3<&0; ( ( read -r _; kill -INT 0 ) <&3 & ); exec 3<&- "$@" </dev/null'


class DirectoryInUse(EmbeddedPostgresError):
    """Another process, or another object of this one, runs a Postgres in the same directory."""

    def __init__(self, directory: Path, owner: str) -> None:
        super().__init__(
            f"{directory} is in use by process {owner or 'unknown'}: stop that one, or choose another directory"
        )
        self.directory = directory


class EmbeddedPostgres:
    """`start` and `stop` block; `async with` does the same in a thread."""

    def __init__(self, directory: Path | str = ".tacoq") -> None:
        self.directory = Path(directory).absolute()
        self._lock = -1
        self._pid = 0
        self._pipe = -1
        self._socket_folder: Path | None = None
        self._temporary: str | None = None  # the socket's folder, where it is not the data's

    @property
    def url(self) -> str:
        """Where it answers; the database is `postgres`. Only this user, and root, can connect."""
        if self._socket_folder is None:
            raise EmbeddedPostgresError(f"the embedded Postgres of {self.directory} is not running")
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_folder))}"

    @property
    def pid(self) -> int:
        return self._pid

    async def __aenter__(self) -> EmbeddedPostgres:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])  # the thread cannot be cancelled, and what it started must be ended
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    def start(self) -> None:
        """Return when it answers. Raises DirectoryInUse, or EmbeddedPostgresError with the end of its log."""
        if self._adopt():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.directory)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut it down; no process is left, and everything committed is on disk. Does nothing when not running."""
        if self._pid:
            _end(self._pid, lambda: _reaped(self._pid))
            self._pid = 0
        if self._pipe >= 0:
            os.close(self._pipe)  # ends the watchdog
            self._pipe = -1
        self._socket_folder = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def keep_over_exec(self) -> dict[str, str]:
        """Let the server outlive the `os.exec…` that must follow at once; return variables for its environment.

        The first `start` in the same directory after it goes on with the running server.
        """
        os.set_inheritable(self._lock, True)
        os.set_inheritable(self._pipe, True)
        kept = [str(self.directory), self._lock, self._pipe, self._pid, str(self._socket_folder), self._temporary]
        return {HANDOVER: json.dumps(kept)}

    def _adopt(self) -> bool:
        kept = json.loads(os.environ.get(HANDOVER, "null"))
        if kept is None or kept[0] != str(self.directory):
            return False
        del os.environ[HANDOVER]
        _, self._lock, self._pipe, self._pid, folder, self._temporary = kept
        self._socket_folder = Path(folder)
        os.set_inheritable(self._lock, False)
        os.set_inheritable(self._pipe, False)
        if not _reaped(self._pid):
            return True
        self._pid = 0
        self.stop()
        return False

    def _start(self) -> None:
        home = self.directory / "postgres"
        try:
            account = account_for(home)
            home = make_home(home, account)
            data = home / "data"
            programs = programs_for(data, account)
            _end_leftover(data)
            if not data.exists():
                _init(programs, data, account)
            self._socket_folder = self._folder_for_socket(home, account)
            self._launch(programs, data, account)
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"{error.filename or home} may not be used by this user: its data was made by another one (root?)"
            ) from error
        self._wait_until_ready(data)

    def _folder_for_socket(self, home: Path, account: Account | None) -> Path:
        if SOCKET_FOLDER.fullmatch(str(home)):
            return home
        self._temporary = tempfile.mkdtemp(prefix="tacoq-")
        if account is not None:
            os.chown(self._temporary, account.uid, account.gid)
        return Path(self._temporary)

    def _launch(self, programs: Path, data: Path, account: Account | None) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self._socket_folder}"',
            "unix_socket_permissions": "0700",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        read_end, self._pipe = os.pipe()
        with (data.parent / "log").open("wb") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, "sh", programs / "postgres", "-D", data, *options],
                stdin=read_end,
                stdout=log,
                stderr=log,
                cwd=data.parent,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the owner, which then stops us after its own work
                **as_account(account),
            )
        os.close(read_end)
        self._pid = process.pid
        process.returncode = 0  # from here on it is known by its pid, as it has to be after an exec

    def _wait_until_ready(self, data: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while _status(data) != (self._pid, "ready"):
            if (ended := _reaped(self._pid)) or time.monotonic() > deadline:
                self._pid = 0 if ended else self._pid
                log = (data.parent / "log").read_text(errors="replace")[-2000:]
                raise EmbeddedPostgresError(f"the embedded Postgres of {self.directory} did not start:\n{log}")
            time.sleep(0.01)


def _locked(directory: Path) -> int:
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(lock, 20).decode().strip()
        os.close(lock)
        raise DirectoryInUse(directory, owner) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _init(programs: Path, data: Path, account: Account | None) -> None:
    """Make `data`, or leave nothing by that name: half of one would be taken for a whole one at the next start."""
    part = data.with_name("data.new")
    shutil.rmtree(part, ignore_errors=True)
    done = subprocess.run(
        [programs / "initdb", "-D", part, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"],
        capture_output=True,
        text=True,
        cwd=data.parent,
        env=_environment(),
        **as_account(account),
    )
    if done.returncode:
        raise EmbeddedPostgresError(f"initdb failed in {part}: {done.stderr.strip()}")
    part.rename(data)


def _environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**ours, "LC_ALL": "C"}


def _status(data: Path) -> tuple[int, str]:
    """What the server says in its pid file; a pid of 0 when there is none, or only part of one."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (data / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
    return 0, ""


def _end_leftover(data: Path) -> None:
    """End a server of this data whose owner is gone; we hold the lock. The pid may be somebody else's by now."""
    pid, _ = _status(data)
    if pid and f"-D {data}" in _command_of(pid):
        _end(pid, lambda: f"-D {data}" not in _command_of(pid))


def _command_of(pid: int) -> str:
    if Path("/proc/self").is_dir():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return ""
    return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout


def _end(pid: int, ended: Callable[[], bool]) -> None:
    """Shut a server down: fast, then at once (it recovers at its next start), then by force."""
    for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while not (gone := ended()) and time.monotonic() < deadline:
            time.sleep(0.01)
        if gone:
            return


def _reaped(pid: int) -> bool:
    """True when our child has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
