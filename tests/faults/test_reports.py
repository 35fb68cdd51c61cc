"""Reports that are doubled, late, in the wrong order or bad: each counts for its own task, once or not at all."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import cast

import asyncpg
import pytest

from tacoq_manager import transitions as moves
from tacoq_manager.store import settle
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.transitions import Transition
from tacoq_protocol import codec
from tacoq_protocol.http import MAX_PAYLOAD_BYTES, ErrorInfo
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import (
    Completed,
    Failed,
    KindSpec,
    Release,
    Report,
    Reports,
    Returned,
    ReturnReason,
    Snoozed,
    Started,
)
from tacoq_publisher import Publisher, TaskFailed
from tests.acceptance import handlers as h
from tests.faults.played import NOW, played
from tests.support.eventually import eventually
from tests.support.systems import System

SEED = 20260101
RELEASED = """
INSERT INTO tasks (id, kind, queue, state, release, run_at, fingerprint, payload)
SELECT id, 'k', 'q', 'running', 1, now(), '', '1' FROM unnest($1::uuid[]) AS id
"""


def completed(release: Release, result: bytes) -> Completed:
    return Completed(release.task_id, release.release, NOW, 0.1, result)


def failed(release: Release, *, message: str = "m", retryable: bool = True) -> Failed:
    error = ErrorInfo("E", message)
    return Failed(release.task_id, release.release, NOW, 0.1, release.attempt, error, retryable, 0.0, release.kind)


def stale(move: str) -> str:
    return f'tacoq_moves_stale_total{{move="{move}"}}'


async def outcome_of(system: System, release: Release) -> tuple[str, bytes | None]:
    """Return the task's state, and its result when it has one, as Postgres has them."""
    connection = await asyncpg.connect(system.database)
    try:
        (row,) = await connection.fetch(
            """SELECT state, NULL::bytea AS result FROM tasks WHERE id = $1
               UNION ALL SELECT state, result FROM task_history WHERE id = $1""",
            release.task_id,
        )
        return row["state"], row["result"]
    finally:
        await connection.close()


async def becomes(system: System, release: Release, state: str) -> None:
    async def so() -> bool:
        return (await outcome_of(system, release))[0] == state

    await eventually(so, 20, what=f"{release.task_id} is {state}")


async def counted(system: System, move: str, count: float) -> None:
    async def so() -> bool:
        return await system.metric(stale(move)) == count

    await eventually(so, 20, what=f"{count:g} stale reports of {move}")


async def test_report_that_comes_twice_is_stale_the_second_time(system: System) -> None:
    async with played(system) as session, Publisher(system.url) as tacoq:
        before = await system.metric(stale("complete"))
        await tacoq.publish_many([(session.queue, i) for i in range(2)])
        one, two = await session.next(2)
        await session.report(completed(one, b'"right"'))
        await becomes(system, one, "completed")
        await session.report(completed(one, b'"wrong"'))
        await counted(system, "complete", before + 1)
        await session.report(completed(two, b'"right"'), completed(two, b'"wrong"'))
        await counted(system, "complete", before + 2)
        for release in (one, two):
            assert await outcome_of(system, release) == ("completed", b'"right"')


async def test_late_report_of_a_closed_release_is_stale(system: System) -> None:
    """The task failed and was released again: what the first release says afterwards is of no interest."""
    async with played(system) as session, Publisher(system.url) as tacoq:
        before = await system.metric(stale("complete"))
        await tacoq.publish(session.queue, 1)
        (first,) = await session.next()
        await session.report(Started(first.task_id, first.release, NOW), failed(first))
        (second,) = await session.next()
        assert (second.task_id, second.attempt) == (first.task_id, 1)
        await session.report(completed(first, b'"late"'))
        await counted(system, "complete", before + 1)
        assert await outcome_of(system, first) == ("queued", None)
        await session.report(completed(second, b'"right"'))
        await becomes(system, second, "completed")
        await session.report(completed(first, b'"later"'))
        await counted(system, "complete", before + 2)
        assert await outcome_of(system, first) == ("completed", b'"right"')


async def test_start_that_comes_after_its_outcome_is_stale(system: System) -> None:
    async with played(system) as session, Publisher(system.url) as tacoq:
        before = await system.metric(stale("start"))
        await tacoq.publish_many([(session.queue, i) for i in range(2)])
        one, two = await session.next(2)
        await session.report(completed(one, b"1"), Returned(two.task_id, two.release, ReturnReason.SHUTDOWN))
        await becomes(system, one, "completed")
        (again,) = await session.next()
        assert (again.task_id, again.attempt) == (two.task_id, 0)
        await session.report(Started(one.task_id, one.release, NOW), Started(two.task_id, two.release, NOW))
        await counted(system, "start", before + 2)
        assert (await outcome_of(system, again))[0] == "queued"
        await session.report(completed(again, b"2"))
        await becomes(system, again, "completed")


async def test_bad_report_fails_its_own_task_alone(system: System) -> None:
    """In one message, with good ones around: whoever waits for those gets them."""
    async with played(system) as session, Publisher(system.url) as tacoq:
        handles = await tacoq.publish_many([(session.queue, i) for i in range(20)])
        releases = await session.next(20)
        bad: list[Report] = [
            Snoozed(*releases[0].fence, NOW, 0.1, 1e300),  # until a moment that Postgres does not have
            failed(releases[1], message="a\0b", retryable=False),
            completed(releases[2], b"\0"),
            completed(releases[3], b"1\n"),
            completed(releases[4], b'"' + b"x" * MAX_PAYLOAD_BYTES + b'"'),
        ]
        good = [completed(release, b"%d" % place) for place, release in enumerate(releases)][len(bad) :]
        outcomes = asyncio.gather(*(handle.result(20) for handle in handles), return_exceptions=True)
        await session.report(*good[:7], *bad, *good[7:])
        ends = {handle.id: end for handle, end in zip(handles, await outcomes, strict=True)}
        words = ["ReportRefused", r"E: a\0b", "ReportRefused: .* not JSON", "one line", "limit is 1,048,576"]
        for release, word in zip(releases, words, strict=False):
            with pytest.raises(TaskFailed, match=word):
                raise cast("TaskFailed", ends[release.task_id])
        assert [ends[release.task_id] for release in releases[len(bad) :]] == list(range(len(bad), 20))


async def test_message_that_nobody_can_read_holds_up_no_other(system: System) -> None:
    async with played(system) as session, Publisher(system.url) as tacoq:
        unreadable = 'tacoq_dead_lettered_total{cause="unreadable"}'
        before = await system.metric(unreadable)
        await tacoq.publish(session.queue, 1)
        (release,) = await session.next()
        body = codec.encode(Reports(session.id, session.queue, [completed(release, b"1")]))
        await session.send(body[:-3])
        await session.send(body)
        await becomes(system, release, "completed")

        async def counted() -> bool:
            return await system.metric(unreadable) == before + 1

        await eventually(counted, what="the message is counted as a dead letter")


async def test_result_that_cannot_be_sent_fails_its_own_task_alone(system: System) -> None:
    """Too large, or of no JSON; a NUL character is as good as any other."""
    async with Publisher(system.url) as tacoq:
        adds = await tacoq.publish_many(h.add.task(i, 1) for i in range(50))
        huge, lost, nul = [await tacoq.publish(call) for call in (h.huge.task(), h.unserialisable.task(), h.nul.task())]
        adds += await tacoq.publish_many(h.add.task(i, 1) for i in range(50))
        for handle in (huge, lost):
            with pytest.raises(TaskFailed, match="InvalidResult"):
                await handle.result(20)
        assert await nul.result(20) == "a\0b"
        assert [await handle.result(20) for handle in adds] == [i + 1 for i in range(50)] * 2


async def test_overlapping_settles_in_any_order_neither_deadlock_nor_double_an_outcome(
    either_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two connections at once, each with most of the same releases, in an order of its own: one of them wins each."""
    random = Random(SEED)
    caplog.set_level(logging.INFO, "tacoq.store")
    connections = [HotConnection(either_database, name) for name in ("one", "two")]
    look = await asyncpg.connect(either_database)
    try:
        for _ in range(40):
            ids = sorted(new_task_id() for _ in range(150))
            await look.execute(RELEASED, random.sample(ids, len(ids)))  # not in the heap in this order either
            releases = [Release(id, 1, "k", 0, b"1", NOW) for id in ids]
            batches = [[outcome(release, by) for release in random.sample(releases, 120)] for by in (0, 1)]
            applied = await asyncio.gather(*map(settle.apply, connections, batches))
            won = [{move.transition.task_id for move in moved} for moved in applied]
            assert won[0].isdisjoint(won[1])
            assert won[0] | won[1] == {move.task_id for batch in batches for move in batch}
            for by, winners in enumerate(won):
                (kept,) = await look.fetch(
                    """SELECT (SELECT count(*) FROM tasks WHERE id = ANY ($1)) AS live,
                              (SELECT count(*) FROM task_history WHERE id = ANY ($1) AND result = $2) AS completed,
                              (SELECT count(*) FROM attempts WHERE task_id = ANY ($1)) AS failed""",
                    list(winners),
                    b"%d" % by,
                )
                assert kept["completed"] + kept["failed"] == len(winners)
                assert kept["live"] == kept["failed"]  # to be tried again
            await look.execute("TRUNCATE tasks, task_history, attempts")
    finally:
        await asyncio.gather(look.close(), *(connection.close() for connection in connections))
    assert "statement retried" not in caplog.text, "two settles waited for each other"


def outcome(release: Release, by: int) -> Transition:
    """A report of one of the two; every third task failed, for the first."""
    session = new_task_id()
    if by == 0 and release.task_id.int % 3 == 0:
        return moves.fail(failed(release), session, KindSpec("k"), 60.0)
    return moves.complete(completed(release, b"%d" % by), session)
