"""The environment in; where this run of a product lives, and what its names begin with, out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

VARIABLE = "BENCH_PLACE"

Results = Literal["postgres", "redis"]


@dataclass(frozen=True)
class Place:
    """`name` begins the name of all that is made on shared servers; the database and the Redis are this run's own."""

    name: str
    database_url: str
    broker_url: str
    redis_url: str
    results: Results
    manager_ports: Sequence[int]
    workers: int = 1

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


def here(environ: Mapping[str, str] = os.environ) -> Place:
    """Workers and publishers of every product import their settings from here."""
    return Place(**json.loads(environ[VARIABLE]))
