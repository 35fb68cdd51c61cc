"""A product's name and servers in; the product at work, steered and watched from outside, out."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import accounts
from benchmarks.peers import PEERS
from benchmarks.place import Place
from benchmarks.servers import Servers

ROOT = Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
ANSWER_SECONDS = 600


class Fault(Exception):
    """A product did not do what was asked of it: `what`, and what its processes said."""

    def __init__(self, what: str, *said: str) -> None:
        super().__init__("\n".join((what, *said)))
        self.what = what


@dataclass(frozen=True)
class Measured:
    """What a command answered, and what it cost in CPU seconds: by role, and of the whole machine."""

    value: Any
    seconds: float
    cpu: dict[str, float]
    machine_cpu: float

    def cost(self) -> dict[str, Any]:
        """For the raw data."""
        return {"cpu": self.cpu, "machine_cpu": round(self.machine_cpu, 3)}


class System:
    """One product. `roles`: its processes, with the servers'."""

    def __init__(
        self,
        name: str,
        place: Place,
        process: subprocess.Popen[str],
        log: Path,
        server_pids: dict[str, list[int]],
    ) -> None:
        self.name = name
        self.place = place
        self._process = process
        self._log = log
        self._server_pids = server_pids
        self.roles: dict[str, list[int]] = {}
        self.versions: dict[str, str] = {}
        self.left: tuple[list[str], list[str]] = ([], [])

    def start(self, fill: Callable[[Place], None] | None) -> None:
        """All but the workers. `fill` may put into the tables what it likes, before anything runs."""
        made = self.ask("prepare")
        self.versions = made["versions"]
        self.left = (made["queues"], made["exchanges"])
        if fill is not None:
            fill(self.place)
        self.ask("start")

    def work(self, warm: int) -> None:
        """Start the workers and warm them up."""
        ours = self.ask("work", warm=warm)
        self.roles = {accounts.PUBLISHER: [self._process.pid], **ours, **self._server_pids}

    def ask(self, do: str, **given: Any) -> Any:
        """Return what the publisher's process answers to a command. Raises Fault."""
        return self._answer(do, given)["value"]

    def measure(self, do: str, **given: Any) -> Measured:
        before, machine = accounts.cpu(self.roles), accounts.machine_cpu()
        answer = self._answer(do, given)
        after = accounts.cpu(self.roles)
        cpu = accounts.used(before, after)
        return Measured(answer["value"], answer["seconds"], cpu, accounts.machine_cpu() - machine)

    def memory(self) -> dict[str, float]:
        """MiB of the product's own processes."""
        ours = {role: pids for role, pids in self.roles.items() if role not in self._server_pids}
        return {role: round(mib, 1) for role, mib in accounts.memory(ours).items()}

    def _answer(self, do: str, given: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **given}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Fault(f"{self.name} ended before {do}", self._tail()) from None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise Fault(f"{self.name} does not answer {do} {given}", self._tail())
        answer: dict[str, Any] = json.loads(line)
        if "fault" in answer:
            raise Fault(f"{self.name} fails at {do} {given}", answer["fault"], self._tail())
        return answer

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])


@contextmanager
def system(
    servers: Servers,
    name: str,
    *,
    managers: int = 1,
    workers: int = 1,
    fill: Callable[[Place], None] | None = None,
    python: Path | None = None,
) -> Iterator[System]:
    """Start a product without its workers, in a place of its own; end and remove all of it afterwards.

    TacoQ runs in this environment, the others in theirs, unless `python` names another one.
    """
    entry = PEERS[name]
    python = python or (Path(sys.executable) if entry.ours else PEERS_PYTHON)
    with (
        servers.place(entry.results, managers=managers, workers=workers) as place,
        tempfile.TemporaryDirectory(prefix="tacoq-bench-") as folder,
    ):
        log = Path(folder) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(python), "-m", "benchmarks.client", name],
                cwd=ROOT,
                env=_environment(place),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        running = System(name, place, process, log, servers.pids())
        try:
            running.start(fill)
            yield running
            running.ask("close")
        finally:
            _end(process)
            servers.sweep(*running.left)


def _end(process: subprocess.Popen[str]) -> None:
    """Without commands it ends by itself, with all that it has started."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _environment(place: Place) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TACOQ_")}
    return ours | {"PYTHONPATH": str(ROOT)} | place.environment()
