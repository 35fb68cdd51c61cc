"""The census, end to end: publish a task for every file, collect the results, compare each with one computed here.

    python -m examples.stdlib_census.run --embedded     nothing to install: one process with everything in it
    python -m examples.stdlib_census.run --rabbitmq     manager, two workers and this publisher on real servers

The last line is JSON; the exit code is 0 when every task completed and every result was right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples import servers
from examples.stdlib_census import census
from examples.stdlib_census.tasks import count
from tacoq_publisher import Publisher, TaskNotCompleted, TaskView

WORKER = "examples.stdlib_census.tasks:worker"


async def collect(url: str, modules: Sequence[str]) -> tuple[dict[str, census.Counts], list[TaskView], float]:
    """Publish one task per module; return the results, the tasks as the manager knows them, and the seconds it took."""
    results: dict[str, census.Counts] = {}
    views: list[TaskView] = []
    async with Publisher(url) as tacoq:
        began = time.perf_counter()
        handles = await tacoq.publish_many(count.task(module) for module in modules)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns) as progress:
            bar = progress.add_task("parsing the standard library", total=len(handles))
            async for handle in tacoq.as_completed(handles):
                views.append(await handle.wait())
                try:
                    counts = await handle.result()
                    results[counts.module] = counts
                except TaskNotCompleted as error:
                    progress.print(f"{error}")
                progress.advance(bar)
        return results, views, time.perf_counter() - began


def mismatches(results: dict[str, census.Counts], modules: Sequence[str]) -> int:
    """Compute every module here, and count those whose result is another."""
    return sum(results.get(module) != census.count(module) for module in modules)


def summary(results: Sequence[census.Counts], views: Sequence[TaskView], seconds: float) -> str:
    """Return totals, the ten largest modules, and how fast it went."""
    lines = [
        "",
        *(
            f"{sum(getattr(counts, name) for counts in results):>10,} {name.replace('_', ' ')}"
            for name in ("lines", "functions", "async_functions", "classes", "imports")
        ),
        f"{sum(c.documented for c in results) / max(1, sum(c.documentable for c in results)):>10.1%} have a docstring",
        f"{sum(c.broken is not None for c in results):>10,} files are not valid Python, on purpose",
        "",
        "the ten largest modules",
        *(
            f"{counts.lines:>10,} lines  {counts.module}"
            for counts in sorted(results, key=lambda counts: -counts.lines)[:10]
        ),
        "",
        f"{len(views) / seconds:,.0f} tasks/s",
        f"start latency, released → started: {_percentiles(views)}",
    ]
    return "\n".join(lines)


def _percentiles(views: Sequence[TaskView]) -> str:
    starts = sorted(
        (view.started_at - view.queued_at).total_seconds() * 1000
        for view in views
        if view.started_at is not None and view.queued_at is not None
    )
    if not starts:
        return "nothing started"
    return f"p50 {starts[len(starts) // 2]:.1f} ms, p99 {starts[int(len(starts) * 0.99)]:.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description="Count what is written in Python's standard library, one task a file.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--embedded", action="store_true", help="everything in one process, nothing to install")
    where.add_argument("--rabbitmq", action="store_true", help="separate processes on RabbitMQ and Postgres")
    embedded = parser.parse_args().embedded
    modules = census.modules()
    with servers.embedded(WORKER) if embedded else servers.on_rabbitmq(WORKER, queue="census") as url:
        results, views, seconds = asyncio.run(collect(url, modules))
    print(summary(list(results.values()), views, seconds))
    print("\ncomparing every result with one computed here …")
    wrong = mismatches(results, modules)
    outcome = {
        "published": len(modules),
        "completed": len(results),
        "mismatches": wrong,
        "seconds": round(seconds, 2),
    }
    print(json.dumps(outcome))
    return 0 if len(results) == len(modules) and not wrong else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
