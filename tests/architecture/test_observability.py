"""docs/observability.md has every metric of a manager."""

from __future__ import annotations

import re
from pathlib import Path

from tacoq_manager.metrics import Metrics
from tacoq_manager.sessions import Sessions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "observability.md").read_text()


def test_every_metric_is_listed_and_no_other() -> None:
    metrics = Metrics()
    metrics.watch(Sessions(), credit=dict, in_flight=dict, dead_letters=lambda: 0)
    found = {metric.name + ("_total" if metric.type == "counter" else "") for metric in metrics.registry.collect()}
    assert set(re.findall(r"^\| `(tacoq_\w+)`", PAGE, re.MULTILINE)) == found
