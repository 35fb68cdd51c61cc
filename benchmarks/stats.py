"""Figures in; medians, percentiles and how they are written, out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def latencies(milliseconds: Sequence[float]) -> dict[str, float]:
    """What is kept of many."""
    parts = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(milliseconds, part), 3) for name, part in parts.items()}


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Median (minimum–maximum), or the only one."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"
