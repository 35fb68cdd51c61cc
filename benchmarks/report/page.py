"""Raw data in; the measured part of docs/benchmarks.md, between its markers, and its plots out.

    python -m benchmarks.report.page benchmarks/results/full.json

writes the page anew without measuring.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.peers import PEERS
from benchmarks.report import alone, figures, tables, targets
from benchmarks.report.bars import Bar, bars
from benchmarks.report.figures import OURS, Data

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "benchmarks.md"
PLOTS = DOCS / "benchmarks"
PLOTTED: dict[str, tuple[str, str, Callable[[Data, str], Sequence[float]]]] = {
    "end-to-end": ("End to end", "tasks a second", figures.capacity),
    "start": ("Idle: publish → start", "milliseconds", lambda data, peer: figures.lone(data, peer, "start")),
    "cpu": (
        "CPU of all processes for 1,000 tasks",
        "seconds",
        lambda data, peer: figures.cpu_per_1000(data, peer).get("all", []),
    ),
}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write(data: Data) -> None:
    page = PAGE.read_text()
    measured = "\n\n".join([BEGIN, *sections(data), END])
    PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: measured, page, flags=re.DOTALL))
    PLOTS.mkdir(exist_ok=True)
    for name, (title, unit, values_of) in PLOTTED.items():
        if rows := _bars(data, values_of):
            (PLOTS / f"{name}.svg").write_text(bars(title, unit, rows))


def sections(data: Data) -> Iterator[str]:
    """Of what was measured."""
    yield f"Measured on {data['date']}, `{'make bench' + (' QUICK=1' if data['plan'] == 'quick' else '')}`."
    yield tables.table(["what", "which"], data["machine"].items(), words=2)
    if "rounds" in data:
        yield f"### Targets\n\n{targets.markdown(data)}"
        yield f"### End to end\n\n{_plot('end-to-end')}"
        yield tables.end_to_end(data)
        yield f"### Latency\n\n{_plot('start')}"
        yield tables.idle(data)
        if "anatomy" in data:
            yield alone.anatomy(data)
        yield tables.loaded(data)
        yield f"### CPU\n\n{_plot('cpu')}"
        yield tables.cpu(data)
        yield tables.lone_cpu(data)
        yield f"### Memory\n\n{tables.memory(data)}"
    if "memory" in data:
        yield alone.memory(data)
    if "backlog" in data:
        yield f"### Backlogs\n\n{tables.backlog(data)}"
    for part, heading, markdown in (
        ("repeats", "Repeated runs", alone.repeats),
        ("scaling", "More workers and managers", alone.scaling),
        ("growth", "Growth", alone.growth),
    ):
        if part in data:
            yield f"### {heading}\n\n{markdown(data)}"
    if faults := [record for part in ("rounds", "backlog") for record in data.get(part, []) if "fault" in record]:
        yield f"### Failed\n\n{_failed(faults)}"
    yield f"### Versions\n\n{_versions(data)}"


def _bars(data: Data, values_of: Callable[[Data, str], Sequence[float]]) -> list[Bar]:
    return [
        Bar(PEERS[peer].title, median(values), min(values), max(values), peer == OURS)
        for peer in figures.peers(data)
        if (values := values_of(data, peer))
    ]


def _plot(name: str) -> str:
    return f"![{PLOTTED[name][0]}](benchmarks/{name}.svg)"


def _failed(faults: Sequence[Data]) -> str:
    lines = [f"- {PEERS[fault['peer']].title}, round {fault['round']}: {fault['fault']}" for fault in faults]
    return "\n".join(lines)


def _versions(data: Data) -> str:
    rows = []
    for peer in figures.peers(data):
        versions = figures.turns(data, peer)[0]["versions"]
        rows.append([tables.title(peer), ", ".join(f"{name} {version}" for name, version in versions.items())])
    return tables.table(["product", "packages"], rows, words=2)


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text()))
