"""Growth: what a claim, a settle and a lookup cost TacoQ with many tasks waiting, and with many finished.

The rows are inserted by Postgres itself, before the manager starts. Claim and settle are timed by the manager's own
metrics over the first tasks of the line, lookups from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import asyncpg

from benchmarks.place import Place
from benchmarks.plan import Plan
from benchmarks.servers import Servers
from benchmarks.stats import latencies
from benchmarks.system import Fault, System, system

SAMPLES = 3
LOOKUPS = 500
SECONDS = 120

# UUIDv7s of today, so that all lie in one partition, as those of a busy day do: they grow with n, 1,000 a millisecond,
# and those that wait come after those that are finished.
_ID = """(
    lpad(to_hex(
        extract(epoch FROM date_trunc('day', now() AT TIME ZONE 'UTC'))::bigint * 1000 + {since} + n / 1000
    ), 12, '0') || '7' || substr(md5('{of}' || n), 1, 3) || '8' || substr(md5('{of}' || n), 4, 15)
)::uuid"""
_PENDING = f"""
INSERT INTO tasks (id, kind, queue, state, run_at, payload, fingerprint)
SELECT {_ID.format(of="pending", since=60_000)}, 'add', 'default', 'pending', now(), '{{"x":1,"y":1}}',
    decode(md5(n::text), 'hex')
FROM generate_series($1::bigint, $2::bigint) AS n
"""
_FINISHED = f"""
INSERT INTO task_history (
    id, seq, kind, queue, state, release, run_at, queued_at, started_at, finished_at, payload, fingerprint, result
)
SELECT {_ID.format(of="finished", since=0)}, -n, 'add', 'default', 'completed', 2, now(), now(), now(), now(),
    '{{"x":1,"y":1}}', decode(md5(n::text), 'hex'), '2'
FROM generate_series($1::bigint, $2::bigint) AS n
"""
_SOME_FINISHED = "SELECT id FROM task_history TABLESAMPLE SYSTEM (1) ORDER BY random() LIMIT $1"
_INSERT_AT_ONCE = 500_000


def run(servers: Servers, plan: Plan) -> Iterator[dict[str, Any]]:
    few = plan.growth_sample * (SAMPLES + 2)  # a claim needs something to claim
    for pending, finished in ((few, 0), (plan.pending, 0), (few, plan.finished)):
        with system(servers, "tacoq-postgres", fill=partial(_fill, pending, finished)) as at_work:
            measured = _measure(at_work, finished > 0, sample=plan.growth_sample)
        yield {"pending": pending, "finished": finished, **measured}


def _measure(at_work: System, any_finished: bool, *, sample: int) -> dict[str, Any]:
    manager = http.client.HTTPConnection("127.0.0.1", at_work.place.manager_ports[0], timeout=30)
    live, final = asyncio.run(_some_ids(at_work.place.database_url, any_finished))
    record = {"lookup_live": _lookups(manager, live)}
    if any_finished:
        record["lookup_finished"] = _lookups(manager, final)
    at_work.work(warm=0)
    _wait_until_worked(manager, sample)  # the first ones meet cold workers, of unknown run times
    samples = [_sample(manager, sample) for _ in range(SAMPLES)]
    manager.close()
    return record | {name: [of[name] for of in samples] for name in ("claim", "settle", "per_second")}


def _sample(manager: http.client.HTTPConnection, tasks: int) -> dict[str, float]:
    """Microseconds a task of claim and settle, and tasks a second, over so many tasks."""
    before, began = _metrics(manager), time.perf_counter()
    _wait_until_worked(manager, before["final"] + tasks)
    after, seconds = _metrics(manager), time.perf_counter() - began
    used = {name: after[name] - before[name] for name in after}
    return {
        "claim": round(used["claim_seconds"] / used["claim_rows"] * 1e6, 2),
        "settle": round(used["settle_seconds"] / used["settle_rows"] * 1e6, 2),
        "per_second": round(used["final"] / seconds, 1),
    }


def _wait_until_worked(manager: http.client.HTTPConnection, tasks: float) -> None:
    deadline = time.monotonic() + SECONDS
    while (worked := _metrics(manager)["final"]) < tasks:
        if time.monotonic() > deadline:
            raise Fault(f"only {worked:,.0f} of {tasks:,.0f} tasks were worked on in {SECONDS} s")
        time.sleep(0.1)


def _metrics(manager: http.client.HTTPConnection) -> dict[str, float]:
    text = _get(manager, "/metrics")

    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    completed = re.findall(r'^tacoq_tasks_final_total\{.*state="completed"\} (\S+)$', text, re.MULTILINE)
    values = {"final": sum(map(float, completed))}
    for statement in ("claim", "settle"):
        values[f"{statement}_seconds"] = value(f'tacoq_statement_seconds_sum{{statement="{statement}"}}')
        values[f"{statement}_rows"] = value(f'tacoq_batch_size_sum{{statement="{statement}"}}')
    return values


def _lookups(manager: http.client.HTTPConnection, ids: list[str]) -> dict[str, float]:
    """Milliseconds of `GET /v1/tasks/{id}`."""
    took = []
    for id in ids:
        began = time.perf_counter()
        view = json.loads(_get(manager, f"/v1/tasks/{id}"))
        took.append((time.perf_counter() - began) * 1000)
        if view["id"] != id:
            raise Fault(f"asked for {id}, got {view['id']}")
    return latencies(took)


def _get(manager: http.client.HTTPConnection, path: str) -> str:
    manager.request("GET", path)
    answer = manager.getresponse()
    body = answer.read().decode()
    if answer.status != 200:
        raise Fault(f"GET {path} answers {answer.status}: {body[:200]}")
    return body


def _fill(pending: int, finished: int, place: Place) -> None:
    asyncio.run(_insert(place.database_url, pending, finished))


async def _insert(url: str, pending: int, finished: int) -> None:
    connection = await asyncpg.connect(url)
    for statement, rows in ((_PENDING, pending), (_FINISHED, finished)):
        for start in range(1, rows + 1, _INSERT_AT_ONCE):
            await connection.execute(statement, start, min(rows, start + _INSERT_AT_ONCE - 1))
    for statement in ("VACUUM (ANALYZE) tasks", "VACUUM (ANALYZE) task_history"):
        await connection.execute(statement)
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        await connection.execute("CHECKPOINT")  # now, and not while something is measured
    await connection.close()


async def _some_ids(url: str, any_finished: bool) -> tuple[list[str], list[str]]:
    """Live ones from the end of the line, finished ones from anywhere."""
    connection = await asyncpg.connect(url)
    live = await connection.fetch("SELECT id FROM tasks ORDER BY seq DESC LIMIT $1", LOOKUPS)
    final = []
    if any_finished:
        final = await connection.fetch(_SOME_FINISHED, LOOKUPS)
    await connection.close()
    return [str(row["id"]) for row in live], [str(row["id"]) for row in final]
