"""Arguments in; raw data in benchmarks/results/, and docs/benchmarks.md with its plots, out."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.machine import machine
from benchmarks.parts import anatomy, backlog, growth, memory, repeats, rounds, scaling
from benchmarks.peers import PEERS
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.report.page import write
from benchmarks.servers import Servers, servers
from benchmarks.stats import number
from benchmarks.system import PEERS_PYTHON, Fault

PARTS: dict[str, Callable[[Servers, Plan], Iterator[dict[str, Any]]]] = {
    "rounds": rounds.run,
    "backlog": backlog.run,
    "anatomy": anatomy.run,
    "repeats": repeats.run,
    "scaling": scaling.run,
    "memory": memory.run,
    "growth": growth.run,
}
RESULTS = Path(__file__).parent / "results"


def measure(plan: Plan, parts: list[str], file: Path) -> dict[str, Any]:
    """Run the parts, and write after each record what there is: a run that is cut short has measured something.

    Parts that are in `file` already and not asked for are kept, so that a long run may be done in pieces.
    """
    data: dict[str, Any] = json.loads(file.read_text()) if file.exists() and parts != list(PARTS) else {}
    began = time.monotonic()
    with servers() as up:
        data |= {
            "plan": plan.name,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine() | up.versions(),
        }
        for part in parts:
            data[part] = []
            try:
                for record in PARTS[part](up, plan):
                    data[part].append(record)
                    file.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
                    print(f"{time.monotonic() - began:6.0f} s  {part}: {_line(record)}", flush=True)
            except Fault as fault:
                print(f"{part}: {fault}", file=sys.stderr)
                del data[part]
    return data


def _line(record: dict[str, Any]) -> str:
    """What can be said of it in a line."""
    shown = {name: value for name, value in record.items() if isinstance(value, str | int | float)}
    shown |= {f"{tasks} tasks, s": run["seconds"] for tasks, run in record.get("end_to_end", {}).items()}
    return ", ".join(f"{name} {number(value) if isinstance(value, float) else value}" for name, value in shown.items())


def _end(number: int, _frame: FrameType | None) -> None:
    """Not at once: what was made on the servers is to be removed."""
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure TacoQ and its peers.")
    parser.add_argument("--quick", action="store_true", help="five minutes: fewer products, rounds and tasks")
    parser.add_argument("--peers", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help="of every product, instead of the plan's")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    given = parser.parse_args()
    plan = QUICK if given.quick else FULL
    if given.peers:
        plan = replace(plan, peers=tuple(given.peers.split(",")))
    if given.rounds:
        plan = replace(plan, rounds=given.rounds, latency_rounds=min(given.rounds, plan.latency_rounds))
    unknown = [name for name in plan.peers if name not in PEERS] + [
        part for part in given.parts.split(",") if part not in PARTS
    ]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if not PEERS_PYTHON.exists() and any(not PEERS[name].ours for name in plan.peers):
        parser.error("the peers are not installed: `make bench` does that")
    RESULTS.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, _end)
    data = measure(plan, given.parts.split(","), RESULTS / f"{plan.name}.json")
    if not given.no_page:
        write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
