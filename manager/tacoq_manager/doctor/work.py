"""What stands in Postgres of managers and workers: does one lead, and is there somebody for all that waits."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from time import monotonic
from typing import Final, NamedTuple

from tacoq_manager.doctor.findings import Finding, ok, problem, warning
from tacoq_manager.store import vitals
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.leader import LEASE_SECONDS
from tacoq_manager.store.reading import Reader
from tacoq_manager.store.vitals import LiveWorker

LOOK_AGAIN_SECONDS: Final = 0.2
START_A_MANAGER: Final = "start one: tacoq manager"
SHOWN: Final = 5


class Queues(NamedTuple):
    """Names of queues: those that live workers serve, and those of which something is released."""

    served: frozenset[str] = frozenset()
    released: frozenset[str] = frozenset()


async def leader(reader: Reader) -> Finding:
    """Look for a manager that leads, for as long as a change of leaders takes."""
    deadline = monotonic() + LEASE_SECONDS
    while True:
        lead = await vitals.lead(reader)
        if lead is not None and lead.holder is not None and lead.seconds_left > 0:
            return ok("leader", f"manager {lead.holder} leads")
        if monotonic() > deadline:
            break
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
    if lead is None or lead.holder is None:
        return problem("leader", "no manager leads: nothing is released", START_A_MANAGER)
    return problem(
        "leader",
        f"manager {lead.holder} led until {-lead.seconds_left:.0f} s ago, and none leads now: nothing is released",
        START_A_MANAGER,
    )


async def workers(reader: Reader) -> tuple[list[Finding], Queues]:
    """Look who is there, and whether each kind that waits is known; return the queues to look at, too."""
    live = await vitals.live_workers(reader)
    waits = await vitals.waiting(reader)
    queues = Queues(frozenset(worker.queue for worker in live), frozenset(await vitals.released(reader)))
    return [_live(live), *of_kinds(waits, live)], queues


def _live(live: Sequence[LiveWorker]) -> Finding:
    by_queue: dict[str, int] = defaultdict(int)
    for worker in live:
        by_queue[worker.queue] += 1
    if not by_queue:
        return warning("workers", "none is live", "start one: tacoq worker MODULE:OBJECT")
    return ok(
        "workers", "live sessions: " + ", ".join(f"{count} of {name}" for name, count in sorted(by_queue.items()))
    )


def of_kinds(waits: Sequence[Flow], live: Sequence[LiveWorker]) -> list[Finding]:
    """Judge the kinds of which tasks are pending. Who is drained does not stand in Postgres, so some may not matter."""
    findings: list[Finding] = []
    unserved = sorted({flow.queue for flow in waits} - {worker.queue for worker in live})
    unknown: list[str] = []
    by_some: list[str] = []
    for queue, kind in waits:
        knows = [kind in worker.kinds for worker in live if worker.queue == queue]
        if knows and not any(knows):
            unknown.append(f"{kind!r} of {queue}")
        elif knows and not all(knows):
            by_some.append(f"{kind!r} of {queue}, {len(knows) - sum(knows)} of {len(knows)}")
    if unserved:
        do = "start a worker of each, or cancel them: tacoq cancel --queue"
        findings.append(problem("kinds", f"tasks wait for queues that no live worker serves: {some(unserved)}", do))
    if unknown:
        do = "start workers that have them, or cancel them: tacoq cancel --kind"
        findings.append(
            problem("kinds", f"tasks wait for kinds that no live worker of their queue knows: {some(unknown)}", do)
        )
    if by_some:
        do = "restart or drain these workers; tacoq why ID names them"
        findings.append(
            warning("kinds", f"tasks wait for kinds that some live workers do not know: {some(by_some)}", do)
        )
    return findings or [ok("kinds", "all that wait are known to the live workers of their queues")]


def some(names: Sequence[str]) -> str:
    """Return the first of many names."""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
