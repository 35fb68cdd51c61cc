"""Examine: settings in; every look taken, each with its deadline, and all findings out. One fault hides no other."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Final

from tacoq_manager.doctor import broker, database, door, results, work
from tacoq_manager.doctor.findings import LOOK_SECONDS, Finding, Level, Look, looked, ok, problem
from tacoq_manager.doctor.work import Queues
from tacoq_manager.settings import LookSettings
from tacoq_manager.store import vitals
from tacoq_manager.store.reading import Reader, reading

STATEMENT_SECONDS: Final = 5.0

_CONNECT: Final = "start Postgres, or set TACOQ_DATABASE_URL; `tacoq migrate` makes a database that is missing"
_READ: Final = "look again; if it stays, see Postgres's own log"
_DIAL: Final = "start RabbitMQ, or set TACOQ_BROKER_URL; tasks are accepted meanwhile, and wait"
_ASK: Final = "start Redis, or set TACOQ_RESULTS_URL; results go to Postgres meanwhile"


async def examine(settings: LookSettings) -> list[Finding]:
    """Look at everything: some seconds, and where nobody answers about half a minute."""
    postgres = _Postgres(settings.database_url)
    findings = await looked("postgres", postgres.look, do=_CONNECT)
    looks: dict[str, tuple[Look, str]] = {
        "rabbitmq": (
            partial(broker.look, url=settings.broker_url, topology=settings.topology, queues=postgres.queues),
            _DIAL,
        ),
        "manager": (partial(door.look, url=settings.manager_url), door.CHECK_IT),
    }
    if settings.results_url is not None:
        look = partial(results.look, url=settings.results_url, ttl=settings.results_ttl, namespace=settings.namespace)
        looks["results"] = (look, _ASK)
    others = await asyncio.gather(*(looked(check, look, do=do) for check, (look, do) in looks.items()))
    return [ok("settings", "they can be read"), *findings, *chain.from_iterable(others)]


def settings_problem(reason: str) -> list[Finding]:
    """What there is to find where settings cannot be read: nothing else is known to look at."""
    return [problem("settings", reason, "set it right, or leave it out; nothing else was looked at")]


def healthy(findings: list[Finding]) -> bool:
    return not any(finding.level is Level.PROBLEM for finding in findings)


class _Postgres:
    """The looks at one database. `queues`: what it tells to look at elsewhere; None when it does not."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.queues: Queues | None = None

    async def look(self, found: list[Finding]) -> None:
        """Raises DatabaseUnavailable when there is none. What of it cannot be read is a finding."""
        async with reading(self._url, "doctor", seconds=STATEMENT_SECONDS) as reader:
            found += database.of_server(await vitals.server(reader), self._url)
            found.append(await database.clock(reader))
            schema = await database.schema(reader)
            found.append(schema)
            if schema.level is not Level.OK:
                return  # its tables are not those that could be read
            for check, look in (
                ("partitions", self._partitions),
                ("leader", self._leader),
                ("workers", self._workers),
            ):
                found += await looked(check, partial(look, reader), do=_READ, seconds=LOOK_SECONDS / 3)

    async def _partitions(self, reader: Reader, found: list[Finding]) -> None:
        found.append(await database.partitions(reader, datetime.now(UTC).date()))

    async def _leader(self, reader: Reader, found: list[Finding]) -> None:
        found.append(await work.leader(reader))

    async def _workers(self, reader: Reader, found: list[Finding]) -> None:
        findings, self.queues = await work.workers(reader)
        found += findings
