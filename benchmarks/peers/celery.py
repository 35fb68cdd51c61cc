"""Celery with the prefork pool and late acks; results through SQLAlchemy, or in Redis."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.result import AsyncResult, ResultSet
from kombu import Exchange, Queue

from benchmarks.peer import HANDLERS, Kind, Leftovers, Value
from benchmarks.place import Place, here

PROCESSES = 2  # the default: one for each core
PREFETCH = 64  # for each process: the documentation's advice for many short tasks

place = here()
backends = {
    "postgres": place.database_url.replace("postgresql://", "db+postgresql+psycopg2://", 1),
    "redis": place.redis_url,
}
app = Celery("benchmarks", broker=place.broker_url, backend=backends[place.results])
app.conf.update(
    task_default_queue=place.name,
    task_queues=[Queue(place.name, Exchange(place.name), routing_key=place.name)],
    event_exchange=f"{place.name}.events",
    control_exchange=f"{place.name}.control",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=PREFETCH,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)

tasks = {kind: app.task(name=kind)(handler) for kind, handler in HANDLERS.items()}


class CeleryPeer:
    async def prepare(self) -> None:
        if place.results == "postgres":
            app.backend.ResultSession().close()  # makes the tables

    def commands(self) -> dict[str, list[list[str]]]:
        worker = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery", "worker", "--loglevel=WARNING"]
        options = [f"--concurrency={PROCESSES}", "-n"]
        return {"worker": [[*worker, *options, f"{place.name}-{number}@%h"] for number in range(place.workers)]}

    async def open(self) -> None: ...

    async def close(self) -> None:
        app.close()

    async def publish(self, kind: Kind, x: int) -> AsyncResult:
        return tasks[kind].delay(x, 1)

    async def publish_many(self, kind: Kind, xs: Sequence[int]) -> list[AsyncResult]:
        return [tasks[kind].delay(x, 1) for x in xs]

    async def result(self, ticket: AsyncResult) -> Value:
        value: Value = ticket.get()
        return value

    async def results(self, tickets: Sequence[AsyncResult]) -> list[Value]:
        values: list[Value] = ResultSet(list(tickets), app=app).get()
        return values

    def leftovers(self) -> Leftovers:
        fanout = app.conf.control_exchange
        return Leftovers(
            [place.name],
            [place.name, app.conf.event_exchange, f"{fanout}.pidbox", f"reply.{fanout}.pidbox"],
        )


def make(_: Place) -> Any:
    return CeleryPeer()
