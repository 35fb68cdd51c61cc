"""A command in; a process with its output kept, and certain to end with the test, out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts.private_servers import WATCHED

TACOQ = str(Path(sys.executable).parent / "tacoq")


class Spawned:
    """A running command, the leader of a process group of its own."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> None:
        self.command = list(command)
        self._killed = False
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", WATCHED, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
            env=env,
            cwd=cwd,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def log(self) -> str:
        """What it has written so far, stdout and stderr together."""
        return os.pread(self._log.fileno(), 1 << 30, 0).decode(errors="replace")

    def wait_for_log(self, text: str, timeout: float = 20.0) -> str:
        """Return the log once it contains `text`; fail, with the log, when it ends or time passes before."""
        deadline = time.monotonic() + timeout
        while text not in (log := self.log()):
            ended = not self.running and text not in self.log()
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"{self} did not say {text!r} in {timeout:g} s:\n{self.log()}")
            time.sleep(0.02)
        return log

    def send(self, number: signal.Signals) -> None:
        """Signal the process alone, not its children."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9 the process alone; its children are left to do what they then do."""
        self._process.kill()
        self._process.wait()

    def kill_all(self) -> None:
        """kill -9 the process and all its process group. Once: the number may be another's later."""
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout: float = 20.0) -> int:
        """Return its exit code; fail, with the log, when it goes on."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end in {timeout:g} s:\n{self.log()}") from None

    def close(self) -> None:
        """Kill it with all its process group."""
        self.kill_all()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._log.close()

    def __str__(self) -> str:
        return f"{' '.join(self.command)} (pid {self.pid}, {'running' if self.running else 'ended'})"


def _hear_interrupts() -> None:
    """In the child: heed SIGINT, also when the suite runs in the background, where a shell ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def spawn(
    *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, show: bool = True
) -> Iterator[Spawned]:
    """Run `command` while the block lasts. `env` is added to ours. When the block raises, `show` prints the log."""
    process = Spawned([str(word) for word in command], {**os.environ, **(env or {})}, cwd)
    try:
        yield process
    except BaseException:
        if show:
            print(f"--- {process}\n{process.log()}", file=sys.stderr)
        raise
    finally:
        process.close()
