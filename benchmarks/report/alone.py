"""Raw data of the parts that only TacoQ runs in; their tables as Markdown out."""

from __future__ import annotations

from benchmarks.report.figures import Data
from benchmarks.report.tables import table
from benchmarks.stats import number, percentile, spread


def anatomy(data: Data) -> str:
    (steps,) = data["anatomy"]
    rows = [[step, *(number(percentile(of, part)) for part in (0.5, 0.9, 0.99))] for step, of in steps.items()]
    return table(["TacoQ, idle: ms since the publish", "p50", "p90", "p99"], rows)


def repeats(data: Data) -> str:
    rows = []
    for name, vacuumed in (("one after the other", False), ("after VACUUM (ANALYZE) of the emptied table", True)):
        seconds = [run["seconds"] for run in data["repeats"] if run["vacuumed"] is vacuumed]
        rows.append([name, str(len(seconds)), spread(seconds)])
    return table([f"{data['repeats'][0]['tasks']:,} tasks, seconds", "runs", "median (fastest–slowest)"], rows)


def scaling(data: Data) -> str:
    by_set: dict[tuple[int, int], list[float]] = {}
    for run in data["scaling"]:
        by_set.setdefault((run["managers"], run["workers"]), []).append(run["tasks"] / run["seconds"])
    rows = [[f"{managers}", f"{workers}", spread(rates)] for (managers, workers), rates in by_set.items()]
    return table(["managers", "workers", f"tasks/s at {data['scaling'][0]['tasks']:,}"], rows)


def memory(data: Data) -> str:
    roles = [role for role in data["memory"][0]["mib"] if role != "publisher"]
    kept = [data["memory"][0], data["memory"][1], data["memory"][-1]]
    rows = [[role, *(number(record["mib"][role]) for record in kept)] for role in roles]
    return table(["MiB", *(f"{record['tasks']:,} tasks" for record in kept)], rows)


def growth(data: Data) -> str:
    rows = []
    for record in data["growth"]:
        finished = record.get("lookup_finished")
        rows.append(
            [
                f"{record['pending']:,}",
                f"{record['finished']:,}",
                spread(record["claim"]),
                spread(record["settle"]),
                number(record["lookup_live"]["p50"]),
                number(finished["p50"]) if finished else "–",
            ]
        )
    head = [
        "tasks pending",
        "finished",
        "claim, µs a task",
        "settle, µs a task",
        "lookup of a live one, ms p50",
        "of a finished one",
    ]
    return table(head, rows)
