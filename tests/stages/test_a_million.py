"""A million tasks that may not run, and a million that are not due: no hot statement looks at more than it takes.

Counted in the blocks that the real statements touch, which no other load of the machine changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from tacoq_manager import transitions as moves
from tacoq_manager.store import accept, cancel, claim, keyed, leader, rescue, schedule, settle
from tacoq_manager.store.claim import Lane, Line, Take
from tacoq_manager.store.engine import HOT_SETTINGS, HotConnection
from tacoq_manager.store.functions import ACCEPT_FUNCTION
from tacoq_manager.store.keyed_function import ACCEPT_KEYED_FUNCTION
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Completed
from tests.support.databases import Databases

pytestmark = pytest.mark.timeout(300)  # 2,000,000 rows are made first

KEYS = 1_000
RUNNABLE = [Lane("q", "runs", "", priority) for priority in (5, 0)]
EACH = 500  # tasks in each of these lanes
BLOCKS_EACH = 25  # for a row that is found and changed, with its entries in the indexes; 11 to 16 were measured
BLOCKS = 40  # whatever a statement finds

# One line of an unknown kind, one of a kind that its limit holds back, in two priorities, and the thousand keys of a
# third kind, whose turn it is not. What is scheduled comes due within a month, a thousand of it is due already. One
# in four has a deadline, in a year.
_FILL = f"""
INSERT INTO tasks (id, kind, queue, fairness_key, priority, state, run_at, expires_at, payload, fingerprint)
SELECT lpad(to_hex(n), 32, '0')::uuid,
    CASE WHEN n > 1000000 THEN 'later' ELSE (ARRAY['unknown', 'limited', 'fair'])[n % 3 + 1] END, 'q',
    CASE WHEN n <= 1000000 AND n % 3 = 2 THEN 'key ' || n / 3 % {KEYS} ELSE '' END,
    CASE WHEN n % 3 = 1 THEN n % 2 ELSE 0 END,
    CASE WHEN n > 1000000 THEN 'scheduled' ELSE 'pending' END,
    now() + CASE WHEN n > 1000000 THEN (n - 1001000) * interval '2 seconds' ELSE interval '0' END,
    CASE WHEN n % 4 = 0 THEN now() + interval '1 year' END, '', ''
FROM generate_series(1, 2000000) AS n
"""

_RUNNABLE = f"""
INSERT INTO tasks (id, kind, queue, priority, state, run_at, payload, fingerprint)
SELECT gen_random_uuid(), 'runs', 'q', 5 * (n % 2), 'pending', now(), '', '' FROM generate_series(1, {2 * EACH}) AS n
"""

_BLOCKS = """
SELECT relname, pg_stat_get_xact_blocks_fetched(oid) AS blocks FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
"""


class Counting(HotConnection):
    """A hot connection whose statements are one transaction that is never committed, and whose blocks are counted."""

    def __init__(self, connection: Any) -> None:
        super().__init__("", "counting")
        self._only = connection

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._only.fetch(statement, *arguments)
        return rows

    async def blocks(self) -> dict[str, int]:
        """Blocks touched so far, by table and index."""
        return {row["relname"]: row["blocks"] for row in await self._only.fetch(_BLOCKS) if row["blocks"]}

    async def touched(self, before: dict[str, int]) -> dict[str, int]:
        """Blocks touched since `before`, of those that were."""
        after = await self.blocks()
        return {name: blocks - before.get(name, 0) for name, blocks in after.items() if blocks > before.get(name, 0)}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def full(databases: Databases) -> AsyncIterator[str]:
    """The URL of a database with all of these tasks, and statistics of them."""
    name = await databases.create()
    connection = await asyncpg.connect(databases.url_of(name))
    await connection.execute("ALTER TABLE tasks SET UNLOGGED")  # a third faster to fill
    await connection.execute(_FILL)
    await connection.execute(_RUNNABLE)
    await connection.execute("VACUUM (ANALYZE) tasks")
    await connection.close()
    yield databases.url_of(name)
    await databases.drop(name)


@pytest.fixture
async def counting(full: str) -> AsyncIterator[Counting]:
    connection = await asyncpg.connect(full, server_settings=HOT_SETTINGS)
    await connection.execute(f"{ACCEPT_FUNCTION};{ACCEPT_KEYED_FUNCTION}")
    await connection.execute("BEGIN")
    yield Counting(connection)
    await connection.close()


async def claimed(counting: Counting, takes: list[Take]) -> claim.Batch:
    """Claim, as the leader."""
    holder = uuid4()
    taken = await leader.take(counting, holder)
    assert isinstance(taken, leader.Taken)
    return await claim.claim(counting, epoch=taken.epoch, holder=holder, limits=0, queue="q", takes=takes)


def assert_few(touched: dict[str, int], *, found: int) -> None:
    """That is: as many as `found` rows need."""
    assert sum(touched.values()) <= BLOCKS + BLOCKS_EACH * found, touched


async def test_claim_beside_a_million_looks_at_what_it_takes(counting: Counting) -> None:
    before = await counting.blocks()
    batch = await claimed(counting, [Take(lane, 50) for lane in RUNNABLE])
    assert [item.lane.priority for item in batch.tasks] == [5] * 50 + [0] * 50
    touched = await counting.touched(before)
    assert_few(touched, found=100)
    assert touched["tasks_pending"] <= 10 * len(RUNNABLE), "each lane's head by one descent, in the lane's order"


async def test_claim_from_a_lane_that_is_empty_stops_where_it_ends(counting: Counting) -> None:
    """Before and behind it in the index stand hundreds of thousands."""
    before = await counting.blocks()
    assert (await claimed(counting, [Take(Lane("q", "limited", "", 9), 50)])).tasks == []
    assert_few(await counting.touched(before), found=0)


async def test_claim_from_a_thousand_keys_looks_at_one_task_of_each(counting: Counting) -> None:
    before = await counting.blocks()
    batch = await claimed(counting, [Take(Lane("q", "fair", f"key {key}", 0), 1) for key in range(KEYS)])
    assert len({item.lane for item in batch.tasks}) == KEYS
    assert_few(await counting.touched(before), found=KEYS)


async def test_look_for_lanes_takes_a_step_for_each_of_them(counting: Counting) -> None:
    before = await counting.blocks()
    found = await claim.lanes(counting)
    assert len(found) == KEYS + 1 + 2 + len(RUNNABLE)
    assert_few(await counting.touched(before), found=len(found))


async def test_count_of_what_is_released_looks_at_nothing_else(counting: Counting) -> None:
    await claimed(counting, [Take(RUNNABLE[0], 50)])
    before = await counting.blocks()
    counts, _ = await claim.in_flight(counting)
    assert counts == {Line("q", "runs", ""): 50}
    assert_few(await counting.touched(before), found=0)


async def test_promotion_looks_at_what_is_due(counting: Counting) -> None:
    before = await counting.blocks()
    assert sum(item.tasks for item in await schedule.promote_due(counting, 500)) == 500
    touched = await counting.touched(before)
    assert_few(touched, found=500)
    assert touched["tasks_scheduled"] < BLOCKS, "the earliest stand together"


async def test_search_for_the_overdue_looks_at_the_next_deadline(counting: Counting) -> None:
    before = await counting.blocks()
    assert await schedule.overdue(counting, 1_000) == []
    assert_few(await counting.touched(before), found=0)


async def test_renewal_of_the_lead_looks_at_the_next_of_each(counting: Counting) -> None:
    holder = uuid4()
    taken = await leader.take(counting, holder)
    assert isinstance(taken, leader.Taken)
    before = await counting.blocks()
    tick = await leader.renew(counting, taken.epoch, holder)
    assert tick is not None
    assert (tick.due or 0) < 0 < (tick.expiry or 0)
    assert_few(await counting.touched(before), found=0)


async def test_accept_beside_a_million_looks_at_what_it_stores(counting: Counting) -> None:
    before = await counting.blocks()
    rows = [
        accept.Row(
            new_task_id(), "unknown", "q", 0, "", b"1", b"", None, None, None, None, None, None, None, None, None, True
        )
        for _ in range(100)
    ]
    stored = await accept.accept(counting, sorted(rows, key=lambda row: row.id))
    assert {row.state for row in stored.values()} == {"pending"}
    assert_few(await counting.touched(before), found=100)


async def test_accept_with_keys_beside_a_million_looks_at_what_it_stores_or_meets(counting: Counting) -> None:
    for twice in range(2):
        before = await counting.blocks()
        rows = [
            accept.Row(
                new_task_id(), "k", "q", 0, "", b"1", b"", None, None, None, None, None, None, None, None, None, True
            )
            for _ in range(100)
        ]
        keys = {
            row.id: keyed.Keys(b"unique %d" % place, "replace", f"key {place} {twice}", 60.0, b"")
            for place, row in enumerate(rows)
        }
        answers = await keyed.accept(counting, rows, keys)
        assert [answer.replaced for answer in answers.values()] == [bool(twice)] * 100
        assert_few(await counting.touched(before), found=2 * 100)  # a task, and a row for each key


async def test_settle_beside_a_million_looks_at_what_it_moves(counting: Counting) -> None:
    batch = await claimed(counting, [Take(RUNNABLE[0], 100)])
    before = await counting.blocks()
    now = datetime.now(UTC)
    reports = [Completed(*item.release.fence, now, 1.0, b"1") for item in batch.tasks]
    applied = await settle.apply(counting, [moves.complete(report, uuid4()) for report in reports])
    assert len(applied) == 100
    assert_few(await counting.touched(before), found=100)


async def test_reminders_of_cancels_and_the_rescue_look_at_what_is_released(counting: Counting) -> None:
    await claimed(counting, [Take(RUNNABLE[0], 50)])
    before = await counting.blocks()
    assert await cancel.requested(counting) == {}
    assert await rescue.doubtful(counting, [], 10.0, []) == []
    assert_few(await counting.touched(before), found=0)
