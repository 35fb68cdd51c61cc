"""Plans: the hot statements use their indexes, also when they are planned while the live table is empty.

A plan made then is kept; one that scans the table or joins by a hash would be run later against a full one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tacoq_manager.store import cancel, claim, ends, leader, prune, reroute, rescue, schedule, schedules, settle, why
from tacoq_manager.store.engine import HOT_SETTINGS
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.why import MOST_AHEAD

Connection = Any

STATEMENTS = {
    "claim": (claim._CLAIM, 8),
    "claim rated": (claim._CLAIM_RATED, 12),
    "unpublished": (claim._UNPUBLISHED, 4),
    "accepted": (claim._ACCEPTED, 2),
    "lanes": (claim._LANES, 0),
    "in flight": (claim._IN_FLIGHT, 0),
    "settle": (settle._APPLY, 13),
    "promote": (schedule._PROMOTE, 1),
    "overdue": (schedule._OVERDUE, 1),
    "tick": (leader._RENEW, 3),
    "schedules due": (schedules._DUE, 1),
    "schedules move on": (schedules._MOVE_ON, 6),
    "doubtful": (rescue._DOUBTFUL, 3),
    "cancels": (cancel._REQUESTED, 0),
    "reroute": (reroute._REROUTE, 4),
    "why": (why._FACTS, 1),
    "place in line": (why._AHEAD, 10),
    "lines": (why._LINES, 3),
    "waits": (why._WAITS, 2),
    "last chance out": (why._LAST_CHANCE_OUT, 1),
    "prune": (prune._PRUNE, 1),
    "ends": (ends._ENDS, 1),
}


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(database, server_settings=HOT_SETTINGS)
    yield opened
    await opened.close()


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


async def plan_of(connection: Connection, name: str) -> list[dict[str, Any]]:
    statement, parameters = STATEMENTS[name]
    await connection.execute(f"PREPARE statement AS {statement}")
    nulls = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
    (text,) = await connection.fetchrow(f"EXPLAIN (FORMAT JSON) EXECUTE statement{nulls}")
    return nodes(json.loads(text)[0]["Plan"])


@pytest.mark.parametrize("name", ["claim", "claim rated", "promote", "reroute", "settle"])
async def test_rows_are_changed_in_the_order_of_their_primary_key(connection: Connection, name: str) -> None:
    """Not by an index of the state that they leave, which would be walked whole, nor in the heap's order."""
    for node in await plan_of(connection, name):
        if node["Node Type"] != "ModifyTable" or node["Relation Name"] != "tasks":
            continue
        (source,) = [child for child in node["Plans"] if child["Parent Relationship"] == "Outer"]
        (scan,) = [inner for inner in nodes(source) if inner.get("Relation Name") == "tasks"]
        assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", "tasks_pkey")


@pytest.mark.parametrize("name", STATEMENTS)
async def test_no_scan_of_the_live_table_and_no_hash_or_merge_join(connection: Connection, name: str) -> None:
    """On an empty, freshly vacuumed table, where a scan costs nothing."""
    await connection.execute("VACUUM (ANALYZE) tasks")
    for node in await plan_of(connection, name):
        assert node["Node Type"] not in {"Hash Join", "Merge Join", "Bitmap Heap Scan"}, node
        assert (node["Node Type"], node.get("Relation Name")) != ("Seq Scan", "tasks"), node


@pytest.mark.parametrize("name", ["tick", "schedules due"])
async def test_schedules_that_are_due_are_found_by_their_time(connection: Connection, name: str) -> None:
    (scan,) = [node for node in await plan_of(connection, name) if node.get("Relation Name") == "schedules"]
    assert (scan["Index Name"], "next_fire_at" in scan["Index Cond"]) == ("schedules_due", True)


async def test_schedules_move_on_by_their_names(connection: Connection) -> None:
    plan = await plan_of(connection, "schedules move on")
    (scan,) = [node for node in plan if node.get("Relation Name") == "schedules" and "Index Name" in node]
    assert (scan["Index Name"], "ANY" in scan["Index Cond"]) == ("schedules_pkey", True)


async def test_keys_past_their_time_are_found_by_it(connection: Connection) -> None:
    plan = await plan_of(connection, "prune")
    scans = [node["Index Name"] for node in plan if "Index Name" in node]
    assert scans == ["idempotency_expires", "idempotency_pkey", "absorbed_expires", "absorbed_pkey"]


async def test_claim_takes_the_head_of_a_lane_without_sorting_it(connection: Connection) -> None:
    """The lane's order is the index's; only the heads of several lanes are sorted together."""
    plan = await plan_of(connection, "claim")
    scans = [node for node in plan if node.get("Index Name") == "tasks_pending"]
    assert [node["Node Type"] for node in scans] == ["Index Scan"], "and the update goes by the primary key"
    limits = [node for node in plan if node["Node Type"] == "Limit" and node["Plans"][-1] in scans]
    assert limits, "the scan stops by itself at the lane's limit"


async def test_claim_looks_for_last_chances_among_these_alone(connection: Connection) -> None:
    """Not in what is pending, nor in what is in flight: there may be thousands beside them."""
    plan = await plan_of(connection, "claim")
    (chance,) = [node for node in plan if node.get("Subplan Name") == "CTE chance"]
    scans = [node for node in nodes(chance) if node.get("Relation Name") == "tasks"]
    assert [scan["Index Name"] for scan in scans] == ["tasks_last_chance"] * 2


async def test_claim_looks_only_at_what_it_takes(connection: Connection) -> None:
    """50,000 tasks of a kind that may not run stand before one that may."""
    rows = [(new_task_id(), "blocked") for _ in range(50_000)] + [(new_task_id(), "k")]
    await connection.execute(
        """
        INSERT INTO tasks (id, kind, queue, state, run_at, payload, fingerprint)
        SELECT u.id, u.kind, 'q', 'pending', now(), '', '' FROM unnest($1::uuid[], $2::text[]) AS u (id, kind)
        """,
        [id for id, _ in rows],
        [kind for _, kind in rows],
    )
    await connection.execute("UPDATE leader SET holder = gen_random_uuid(), expires_at = now() + interval '1 hour'")
    await connection.execute(f"PREPARE statement AS {claim._CLAIM}")
    holder = await connection.fetchval("SELECT holder FROM leader")
    (text,) = await connection.fetchrow(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE statement"
        f"(0, '{holder}', ARRAY['k'], ARRAY[''], ARRAY[0::smallint], ARRAY[10], 'q', 0)"
    )
    (plan,) = json.loads(text)
    looked_at = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") == "tasks" and "Index Name" in node]
    looked_at = [node for node in looked_at if node["Actual Loops"]]  # not for last chances: none is at the head
    assert [node["Actual Rows"] for node in looked_at] == [1, 1]  # the head of the lane, and the row to update
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 100


async def test_place_in_line_is_counted_without_walking_the_line(connection: Connection) -> None:
    """50,000 tasks are before it in its lane, and as many fairness keys wait beside it."""
    await connection.execute(
        """
        INSERT INTO tasks (id, kind, queue, fairness_key, state, run_at, payload, fingerprint)
        SELECT gen_random_uuid(), 'k', 'q', CASE WHEN n % 2 = 0 THEN '' ELSE n::text END, 'pending', now(), '', ''
        FROM generate_series(1, 100000) AS n
        """
    )
    await connection.execute(f"PREPARE lines AS {why._LINES}")
    await connection.execute(f"PREPARE ahead AS {why._AHEAD}")
    lines = await connection.fetch("EXECUTE lines('q', ARRAY['k'], 1001)")
    keys = [line["fairness_key"] for line in lines]
    kinds, weights = (f"array_fill({each}, ARRAY[{len(keys)}])" for each in ("'k'::text", "1"))
    given = f"'q', 'k', '', 0::smallint, now(), 9223372036854775807, 1, {kinds}, ARRAY{keys}, {weights}"
    for statement in ("lines('q', ARRAY['k'], 1001)", f"ahead({given})"):
        (text,) = await connection.fetchrow(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {statement}")
        (plan,) = json.loads(text)
        looked_at = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") == "tasks"]
        assert looked_at
        assert max(node["Actual Rows"] * node["Actual Loops"] for node in looked_at) <= MOST_AHEAD + 1
