"""Commands by role in; processes with their output kept, certain to end with us, out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.private_servers import WATCHED

STOP_SECONDS = 15.0


class Processes:
    """Each is the leader of a process group of its own, which ends when ours does, however that ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tacoq-bench-")
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {}

    def start(self, role: str, commands: Sequence[Sequence[str]]) -> None:
        for command in commands:
            running = self._running.setdefault(role, [])
            with (Path(self._folder.name) / f"{role}-{len(running)}.log").open("ab") as log:
                running.append(
                    subprocess.Popen(
                        ["/bin/sh", "-c", WATCHED, "sh", *command],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def pids(self) -> dict[str, list[int]]:
        return {role: [process.pid for process in running] for role, running in self._running.items()}

    def stop(self, *roles: str) -> None:
        """Ask them to end, and after STOP_SECONDS see to it. Without names: all, the last started first."""
        for role in roles or reversed(list(self._running)):
            running = self._running.pop(role, [])
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with the watchdog
                process.wait()
                assert process.stdin is not None
                process.stdin.close()

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()

    def faults(self) -> str:
        """What has ended by itself, and the last lines of every log."""
        ended = [
            f"{role} ended with {process.returncode}"
            for role, running in self._running.items()
            for process in running
            if process.poll() is not None
        ]
        logs = [f"--- {log.name}\n{_tail(log)}" for log in sorted(Path(self._folder.name).glob("*.log"))]
        return "\n".join(ended + logs)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
