"""Repeats: the same run of TacoQ again and again, every second one after the emptied table was vacuumed and analysed.

A statement that is planned while the table is empty may keep a plan that is slow when it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg

from benchmarks.plan import WARM_TASKS, Plan
from benchmarks.servers import Servers
from benchmarks.system import system


def run(servers: Servers, plan: Plan) -> Iterator[dict[str, Any]]:
    tasks = max(plan.tasks)
    with system(servers, "tacoq-postgres") as at_work:
        at_work.work(WARM_TASKS)
        for number in range(plan.repeats):
            vacuumed = number % 2 == 1
            if vacuumed:
                asyncio.run(_vacuum(at_work.place.database_url))
            yield {"tasks": tasks, "vacuumed": vacuumed, "seconds": at_work.ask("end_to_end", tasks=tasks)}


async def _vacuum(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM (ANALYZE) tasks")
    await connection.close()
