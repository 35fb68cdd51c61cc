"""Raw data in; the figures that tables, plots and targets are made of out. What was not measured is an empty list."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

from benchmarks.peers import PEERS

Data = dict[str, Any]
OURS = "tacoq-postgres"


def turns(data: Data, peer: str) -> list[Data]:
    """Those that did not fail."""
    return [turn for turn in data.get("rounds", []) if turn["peer"] == peer and "fault" not in turn]


def peers(data: Data) -> list[str]:
    return [peer for peer in PEERS if turns(data, peer)]


def runs(data: Data, peer: str, tasks: int) -> list[Data]:
    """The end-to-end runs of so many tasks."""
    return [turn["end_to_end"][str(tasks)] for turn in turns(data, peer) if str(tasks) in turn["end_to_end"]]


def per_second(data: Data, peer: str, tasks: int) -> list[float]:
    return [tasks / run["seconds"] for run in runs(data, peer, tasks)]


def most(data: Data, peer: str) -> int:
    """The largest number of tasks that the product was given."""
    return max((int(tasks) for turn in turns(data, peer) for tasks in turn["end_to_end"]), default=0)


def capacity(data: Data, peer: str) -> list[float]:
    return per_second(data, peer, most(data, peer))


def cpu_per_1000(data: Data, peer: str) -> dict[str, list[float]]:
    """CPU seconds for 1,000 tasks by role, of the largest runs, with their sum as `all`."""
    tasks = most(data, peer)
    return _by_role([(run["cpu"], tasks / 1000) for run in runs(data, peer, tasks)])


def lone(data: Data, peer: str, of: Literal["start", "result"]) -> list[float]:
    """Milliseconds of all lone trips of all rounds."""
    return [value for turn in turns(data, peer) for value in turn.get("lone", {}).get(of, [])]


def rate(data: Data, peer: str, of: Literal["rate", "half"], part: str) -> list[float]:
    """A percentile of the start latency at a steady rate, of each round."""
    return [turn[of]["start"][part] for turn in turns(data, peer) if of in turn]


def reached(data: Data, peer: str, of: Literal["rate", "half"]) -> list[float]:
    """Publishes a second."""
    return [turn[of]["per_second"] for turn in turns(data, peer) if of in turn]


def lone_cpu(data: Data, peer: str) -> dict[str, list[float]]:
    """CPU milliseconds a task at the steady rate of lone publishes, without reading results; as above."""
    rates = [turn["rate"] for turn in turns(data, peer) if "rate" in turn]
    return _by_role([(at["cpu"], at["begun"] / 1000) for at in rates])


def _by_role(costs: Sequence[tuple[dict[str, float], float]]) -> dict[str, list[float]]:
    """CPU seconds of each role, and of all, divided by what they were spent on."""
    found: dict[str, list[float]] = {}
    for cpu, on in costs:
        for role, seconds in {**cpu, "all": sum(cpu.values())}.items():
            found.setdefault(role, []).append(seconds / on)
    return found


def memory(data: Data, peer: str, when: Literal["memory_idle", "memory_after"]) -> list[float]:
    """MiB of the product's own processes, without the publisher."""
    return [sum(mib for role, mib in turn[when].items() if role != "publisher") for turn in turns(data, peer)]


def backlogs(data: Data, peer: str, of: Literal["singly", "in_bulk", "start", "drain"]) -> list[float]:
    """Tasks a second."""
    return [record[of] for record in data.get("backlog", []) if record["peer"] == peer and "fault" not in record]


def grown(data: Data) -> dict[str, tuple[float, float]]:
    """How many times as long a claim and a lookup take with many tasks pending, and with many finished."""
    records = data.get("growth", [])
    if len(records) != 3:
        return {}
    few, pending, finished = ([median(of["claim"]), of["lookup_live"]["p50"]] for of in records)
    return {
        name: (pending[place] / few[place], finished[place] / few[place])
        for place, name in enumerate(("claim", "lookup"))
    }
