"""The products, a file each, and the list of them. Their settings are explained in docs/benchmarks.md."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from benchmarks.peer import Peer
from benchmarks.place import Place, Results


@dataclass(frozen=True)
class Entry:
    """`backlog`: how much longer a queue to drain has to be than that of the slowest, to keep it busy for seconds."""

    title: str
    module: str
    results: Results
    packages: tuple[str, ...]
    backlog: int = 1

    @property
    def ours(self) -> bool:
        return self.module == "tacoq"

    def peer(self, place: Place) -> Peer[Any]:
        """Import the product; of the two environments only one can."""
        made: Peer[Any] = importlib.import_module(f"benchmarks.peers.{self.module}").make(place)
        return made


_AMQP, _PG, _REDIS, _LOOP = "aio-pika", "asyncpg", ("redis", "hiredis"), "uvloop"
_TACOQ = ("tacoq-manager", _AMQP, _PG, "fastapi", "uvicorn", _LOOP)
_CELERY = ("celery", "kombu", "amqp")
_TASKIQ = ("taskiq", "taskiq-aio-pika", _AMQP, _LOOP)

PEERS = {
    "tacoq-postgres": Entry("TacoQ", "tacoq", "postgres", _TACOQ, backlog=10),
    "tacoq-redis": Entry("TacoQ, results in Redis", "tacoq", "redis", (*_TACOQ, *_REDIS), backlog=10),
    "celery-postgres": Entry(
        "Celery, results in Postgres", "celery", "postgres", (*_CELERY, "sqlalchemy", "psycopg2-binary")
    ),
    "celery-redis": Entry("Celery, results in Redis", "celery", "redis", (*_CELERY, *_REDIS)),
    "bare-postgres": Entry("bare consumer, Postgres", "bare", "postgres", (_AMQP, _PG)),
    "bare-redis": Entry("bare consumer, Redis", "bare", "redis", (_AMQP, *_REDIS)),
    "taskiq-postgres": Entry("Taskiq, results in Postgres", "taskiq", "postgres", (*_TASKIQ, "taskiq-postgres", _PG)),
    "taskiq-redis": Entry("Taskiq, results in Redis", "taskiq", "redis", (*_TASKIQ, "taskiq-redis", *_REDIS)),
    "dramatiq-redis": Entry(
        "Dramatiq, results in Redis", "dramatiq", "redis", ("dramatiq", "pika", *_REDIS), backlog=2
    ),
    "pgqueuer": Entry("PgQueuer", "pgqueuer", "postgres", ("pgqueuer", _PG, _LOOP), backlog=2),
    "procrastinate": Entry("Procrastinate", "procrastinate", "postgres", ("procrastinate", "psycopg")),
}
