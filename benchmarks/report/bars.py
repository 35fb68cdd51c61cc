"""Rows of medians with their spread in; a plot of bars as SVG out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from benchmarks.stats import number

WIDTH, LABEL, VALUE, ROW, HEAD = 860, 230, 170, 26, 52


class Bar(NamedTuple):
    label: str
    median: float
    low: float
    high: float
    ours: bool = False


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """Each bar is a median, its line the minimum and maximum. The axis is logarithmic: ratios are lengths."""
    floor = 10 ** math.floor(math.log10(min(row.low for row in rows) * 0.8))  # no bar is without length
    top = max(row.high for row in rows)
    room = WIDTH - LABEL - VALUE

    def place(value: float) -> float:
        return LABEL + room * math.log(value / floor) / math.log(top / floor)

    height = HEAD + ROW * len(rows) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="42" fill="#666">{escape(unit)}, logarithmic; median, minimum and maximum</text>',
    ]
    tick = floor
    while tick <= top:
        x = place(tick)
        parts.append(f'<path d="M{x:.1f} {HEAD}V{height - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 6}" fill="#666" text-anchor="middle">{tick:g}</text>')
        tick *= 10
    for index, row in enumerate(rows):
        y = HEAD + ROW * index + 4
        middle = y + (ROW - 8) / 2
        fill = "#d9480f" if row.ours else "#748ffc"
        parts += [
            f'<text x="{LABEL - 8}" y="{middle + 5}" text-anchor="end">{escape(row.label)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{place(row.median) - LABEL:.1f}" height="{ROW - 8}" fill="{fill}"/>',
            f'<path d="M{place(row.low):.1f} {middle}H{place(row.high):.1f}" stroke="#222" stroke-width="1.5"/>',
            f'<text x="{place(row.high) + 8:.1f}" y="{middle + 5}">{number(row.median)}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])
