"""RabbitMQ: is it there, does it take messages, is all there as it should be, and does anything lie about."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tacoq_manager.doctor.findings import Finding, ok, problem, warning
from tacoq_manager.doctor.work import START_A_MANAGER, Queues, some
from tacoq_protocol.brokers.inspection import Found, Inspection, inspect
from tacoq_protocol.topology import Topology

OLDEST: Final = (3, 10)  # the oldest that it was tried with
MOST_REPORTS: Final = 1_000  # messages; more than a manager has at hand
LOOKS: Final = 3
LOOK_AGAIN_SECONDS: Final = 1.0
NAME: Final = "tacoq doctor"

_DEAD: Final = "look at them in RabbitMQ's own pages: each says why it is there; then purge the queue"
_ALARM: Final = "see `rabbitmq-diagnostics alarms` there: give it memory or disk; tasks are accepted, and wait"


async def look(found: list[Finding], url: str, topology: Topology, queues: Queues | None) -> None:
    """Add what is found; of task queues nothing where these are not known. Raises BrokerUnavailable."""
    async with inspect(url, NAME) as inspection:
        found.append(of_version(inspection.version, inspection.place))
        found.append(await _fixed(inspection, topology))
        found.append(await _reports(inspection, topology))
        found.append(await _dead(inspection, topology))
        if queues is not None:
            found += await _task_queues(inspection, topology, queues)
        if not (await inspection.exchange(topology.tasks)).there:
            return  # where should be published?
        if await inspection.blocks(topology.tasks):
            found.append(problem("alarms", "RabbitMQ takes no messages: it is short of memory or disk", _ALARM))
        else:
            found.append(ok("alarms", "RabbitMQ takes messages"))


def of_version(version: str, place: str) -> Finding:
    says = f"RabbitMQ {version} at {place}"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return warning("rabbitmq", says, f"TacoQ was not tried with anything older than {oldest}: upgrade it")
    return ok("rabbitmq", says)


async def _fixed(inspection: Inspection, topology: Topology) -> Finding:
    """The exchanges and queues that every system has."""
    looks = [(exchange.name, await inspection.exchange(exchange)) for exchange in topology.exchanges]
    looks += [(queue.name, await inspection.queue(queue)) for queue in topology.fixed_queues]
    missing, wrong = _faults(looks)
    if wrong:
        do = "stop the managers and workers, delete these, and start again: they are made as they should be"
        return problem("topology", f"not as this version needs them: {some(wrong)}", do)
    if missing:
        return problem(
            "topology", f"not there: {some(missing)}", "a manager makes them when it connects: " + START_A_MANAGER
        )
    return ok("topology", f"the exchanges and fixed queues of {topology.namespace} are as they should be")


async def _reports(inspection: Inspection, topology: Topology) -> Finding:
    """Outcomes on their way to Postgres."""
    name = topology.reports_queue.name
    nobody = await _left(inspection, [name], although_empty=True)
    counts = await inspection.counts(name)
    if counts is None:
        return problem("reports", f"there is no queue {name}", START_A_MANAGER)
    if nobody:
        return problem("reports", f"no manager consumes {name}, where {counts.ready:,} messages wait", START_A_MANAGER)
    if counts.ready > MOST_REPORTS:
        do = "see whether Postgres is slow: tacoq_statement_seconds in /metrics; start another manager"
        return warning("reports", f"{counts.ready:,} messages wait in {name}", do)
    return ok("reports", f"managers consume {name}, where {counts.ready:,} messages wait")


async def _dead(inspection: Inspection, topology: Topology) -> Finding:
    name = topology.dead_queue.name
    counts = await inspection.counts(name)
    if counts is not None and counts.ready:
        return warning("dead letters", f"{counts.ready:,} messages are in {name}", _DEAD)
    return ok("dead letters", "there are none")


async def _task_queues(inspection: Inspection, topology: Topology, queues: Queues) -> list[Finding]:
    """Those that live workers serve, and those of which something is released."""
    findings: list[Finding] = []
    expected = [topology.task_queue(name) for name in sorted(queues.served)]
    missing, wrong = _faults([(queue.name, await inspection.queue(queue)) for queue in expected])
    if missing:
        do = "restart its workers: they make them when they connect"
        findings.append(problem("task queues", f"workers are live, and their queue is not there: {some(missing)}", do))
    if wrong:
        do = "give all managers and workers the same TACOQ_TASK_QUEUES and restart them: they rebuild their queues"
        findings.append(problem("task queues", f"not as this version needs them: {some(wrong)}", do))
    names = sorted(topology.task_queue_name(name) for name in queues.served | queues.released)
    if left := await _left(inspection, names):
        do = "start workers of these queues; the leading manager takes the messages back when it sees none"
        findings.append(warning("task queues", f"messages wait where nobody consumes: {some(left)}", do))
    return findings or [
        ok("task queues", "those of live workers are as they should be, and nothing lies in any unseen")
    ]


def _faults(looks: Sequence[tuple[str, Found]]) -> tuple[list[str], list[str]]:
    """Return what is not there, and what is there otherwise."""
    missing = [name for name, found in looks if not found.there]
    return missing, [f"{name} ({found.difference})" for name, found in looks if found.difference is not None]


async def _left(inspection: Inspection, names: list[str], *, although_empty: bool = False) -> list[str]:
    """Of these queues, return those that have messages and no consumer at every look.

    A quorum queue that is busy may seem to have none, and a message may just have come.
    """
    for look in range(LOOKS):
        if names and look:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        counted = [(name, await inspection.counts(name)) for name in names]
        names = [
            name
            for name, counts in counted
            if counts is not None and not counts.consumers and (counts.ready or although_empty)
        ]
    return names
