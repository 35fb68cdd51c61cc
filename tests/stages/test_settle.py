"""Settle: reports are committed, then acked; bad ones fail alone; nothing is lost while Postgres is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tacoq_manager.settle import RETRY_SECONDS
from tacoq_manager.store import settle as store
from tacoq_manager.store import tasks
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.store.results import Results
from tacoq_manager.transitions import Transition, complete, hand_back
from tacoq_protocol import codec
from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.messages import (
    CancelRuns,
    Completed,
    Control,
    Expired,
    Failed,
    Report,
    Reports,
    Returned,
    ReturnReason,
    Snoozed,
    Started,
)
from tests.stages.floor import Floor

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Reported:
    """A delivery of reports."""

    body: bytes
    format: str = codec.REPORTS.name
    redelivered: bool = False

    def ack(self, *, multiple: bool = False) -> None: ...

    def reject(self) -> None: ...


@pytest.fixture
async def released(floor: Floor) -> Floor:
    """Three tasks are released."""
    floor.join("k")
    await floor.accept(3)
    await floor.dispatch()
    return floor


async def unacked(floor: Floor) -> bool:
    """True when the reports would come again to another consumer."""
    await floor.manager.broker.stop()
    return bool(await floor.worker.message_count(floor.manager.topology.reports_queue.name))


async def test_reports_of_one_message_are_settled_together_and_acked(released: Floor) -> None:
    one, two, three = released.releases
    await released.report(
        Completed(one.task_id, 1, NOW, 0.1, b"5"),
        Failed(two.task_id, 1, NOW, 0.1, 0, ErrorInfo("E", "m"), True, 60.0, "k"),
        Returned(three.task_id, 1, ReturnReason.SHUTDOWN),
    )
    assert [await released.state(r.task_id) for r in (one, two, three)] == ["completed", "scheduled", "pending"]
    assert not await unacked(released)


@pytest.mark.parametrize("reason", sorted({*ReturnReason} - {ReturnReason.REDELIVERED}))
async def test_release_that_was_started_and_is_returned_is_pending_again(released: Floor, reason: ReturnReason) -> None:
    one = released.releases[0]
    await released.report(Started(one.task_id, 1, NOW))
    await released.report(Returned(one.task_id, 1, reason))
    assert await released.state(one.task_id) == "pending"


async def test_second_report_of_a_release_is_stale_in_the_same_message_too(released: Floor) -> None:
    one = released.releases[0]
    await released.report(
        Completed(one.task_id, 1, NOW, 0.1, b"5"),
        Failed(one.task_id, 1, NOW, 0.1, 0, ErrorInfo("E", "m"), False, None, "k"),
    )
    await released.report(Failed(one.task_id, 1, NOW, 0.1, 0, ErrorInfo("E", "m"), False, None, "k"))
    assert await released.state(one.task_id) == "completed"


async def test_start_and_outcome_in_one_message_count_once(released: Floor) -> None:
    one = released.releases[0]
    await released.report(Started(one.task_id, 1, NOW), Snoozed(one.task_id, 1, NOW, 0.1, 60.0))
    row = await released.row(one.task_id)
    assert (row["state"], row["release"], row["session"]) == ("scheduled", 2, None)


async def test_redelivered_release_stays_with_its_holder(released: Floor) -> None:
    one = released.releases[0]
    await released.report(Started(one.task_id, 1, NOW))
    await released.report(Returned(one.task_id, 1, ReturnReason.REDELIVERED))
    assert await released.state(one.task_id) == "running"
    await released.report(Completed(one.task_id, 1, NOW, 0.1, b"5"))
    assert await released.state(one.task_id) == "completed"


async def test_value_that_postgres_refuses_fails_its_own_task_only(released: Floor) -> None:
    """No moment of Postgres is that late."""
    one, two, three = released.releases
    reports: list[Report] = [
        Completed(one.task_id, 1, NOW, 0.1, b"5"),
        Snoozed(two.task_id, 1, NOW, 0.1, 1e300),
        Completed(three.task_id, 1, NOW, 0.1, b"5"),
    ]
    await released.report(*reports)
    assert [await released.state(r.task_id) for r in (one, two, three)] == ["completed", "failed", "completed"]
    rows = await released.connection.fetch("SELECT error FROM task_history WHERE id = $1", two.task_id)
    assert "ReportRefused" in rows[0]["error"]


async def test_release_that_no_column_holds_is_dropped_and_disturbs_nobody(released: Floor) -> None:
    one, two, _ = released.releases
    await released.report(Completed(one.task_id, 2**40, NOW, 0.1, b"5"), Completed(two.task_id, 1, NOW, 0.1, b"5"))
    assert [await released.state(r.task_id) for r in (one, two)] == ["queued", "completed"]


async def test_return_of_a_release_that_no_column_holds_is_dropped_too(released: Floor) -> None:
    one, two, _ = released.releases
    returned = Returned(one.task_id, 2**40, ReturnReason.SHUTDOWN)
    await released.report(returned, Completed(two.task_id, 1, NOW, 0.1, b"5"))
    assert [await released.state(r.task_id) for r in (one, two)] == ["queued", "completed"]


async def test_result_that_is_nested_too_deep_fails_its_own_task_only(released: Floor) -> None:
    one, two, _ = released.releases
    deep = b"[" * 100_000 + b"]" * 100_000
    await released.report(Completed(one.task_id, 1, NOW, 0.1, deep), Completed(two.task_id, 1, NOW, 0.1, b"5"))
    assert [await released.state(r.task_id) for r in (one, two)] == ["failed", "completed"]


@pytest.mark.parametrize("state", ["25006", "53100", "40P01", "58030", "42P01", "55P03"])
async def test_report_is_not_refused_for_a_trouble_of_the_server(released: Floor, state: str) -> None:
    """Read only, disk full, a deadlock again and again, files that cannot be written, a table that a migration has
    taken away for a moment, or has locked: the report is not at fault.
    """
    await released.connection.execute(
        f"""CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '{state}'; END $$"""
    )
    await released.connection.execute(
        "CREATE TRIGGER trouble BEFORE DELETE ON tasks FOR EACH ROW EXECUTE FUNCTION trouble()"
    )
    one = released.releases[0]
    report = Completed(one.task_id, 1, NOW, 0.1, b"5")
    with pytest.raises(DatabaseUnavailable, match="trouble"):
        await released.manager.settler.apply([complete(report, released.session)])
    await released.connection.execute("DROP TRIGGER trouble ON tasks")
    await released.report(report)
    assert await released.state(one.task_id) == "completed"


async def test_reports_wait_for_postgres_unacked(released: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = store.apply
    tries = 0

    async def away(*arguments: object) -> list[store.Applied]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise DatabaseUnavailable("away")
        return await apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("tacoq_manager.settle.store.apply", away)
    monkeypatch.setattr("tacoq_manager.settle.RETRY_SECONDS", RETRY_SECONDS / 100)
    one = released.releases[0]
    await released.report(Completed(one.task_id, 1, NOW, 0.1, b"5"))
    assert (tries, await released.state(one.task_id)) == (3, "completed")


async def test_reports_that_are_too_much_for_one_statement_are_settled_in_parts(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = store.apply
    sizes: list[int] = []

    async def in_time(
        connection: HotConnection, transitions: Sequence[Transition], *rest: object
    ) -> list[store.Applied]:
        sizes.append(len(transitions))
        if len(transitions) > 2:
            raise DatabaseUnavailable("it took too long")
        return await apply(connection, transitions)

    floor.join("k")
    ids = await floor.accept(9)
    await floor.dispatch()
    monkeypatch.setattr("tacoq_manager.settle.store.apply", in_time)
    monkeypatch.setattr("tacoq_manager.settle.RETRY_SECONDS", RETRY_SECONDS / 100)
    async with asyncio.timeout(20):
        await floor.report(*[Completed(task_id, 1, NOW, 0.1, b"5") for task_id in ids])
    assert {await floor.state(task_id) for task_id in ids} == {"completed"}
    assert sum(size for size in sizes if size <= 2) == 9


async def test_commit_whose_answer_was_lost_is_applied_again_and_stale(
    released: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = store.apply
    tries = 0

    async def answer_lost(*arguments: object) -> list[store.Applied]:
        nonlocal tries
        tries += 1
        applied = await apply(*arguments)  # type: ignore[arg-type]
        if tries == 1:
            raise DatabaseUnavailable("connection lost after the commit")
        return applied

    monkeypatch.setattr("tacoq_manager.settle.store.apply", answer_lost)
    monkeypatch.setattr("tacoq_manager.settle.RETRY_SECONDS", RETRY_SECONDS / 100)
    one = released.releases[0]
    await released.report(Completed(one.task_id, 1, NOW, 0.1, b"5"))
    assert (tries, await released.state(one.task_id)) == (2, "completed")


async def test_catching_up_does_not_wait_for_what_arrives_meanwhile(
    released: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rescue that waits for reports must not wait for a lull."""
    settler, one = released.manager.settler, released.releases[0]
    apply = store.apply
    report = codec.encode(Reports(released.session, "default", [Completed(one.task_id, 1, NOW, 0.1, b"5")]))

    async def while_more_arrives(*arguments: object) -> list[store.Applied]:
        settler.on_delivery(Reported(report))
        return await apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("tacoq_manager.settle.store.apply", while_more_arrives)
    settler.on_delivery(Reported(report))
    settling = asyncio.create_task(settler.run())
    async with asyncio.timeout(5):
        await settler.caught_up()
    settling.cancel()
    assert await released.state(one.task_id) == "completed"


async def test_deadline_seen_by_the_worker_expires_the_task(released: Floor) -> None:
    one = released.releases[0]
    await released.report(Expired(one.task_id, 1))
    assert await released.state(one.task_id) == "expired"


async def test_cancel_of_a_released_task_is_asked_for_and_kept_when_it_comes_back(released: Floor) -> None:
    one, two, _ = released.releases
    for release in (one, two):
        answer = await released.manager.canceller.cancel(release.task_id)
        assert (answer.state, answer.cancel_requested) == ("queued", True)
    await released.report(Returned(one.task_id, 1, ReturnReason.SHUTDOWN), Completed(two.task_id, 1, NOW, 0.1, b"5"))
    assert [await released.state(r.task_id) for r in (one, two)] == ["cancelled", "completed"]


async def test_cancel_that_no_session_heard_is_asked_for_again(
    released: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = released.releases
    heard: list[tuple[str, Control]] = []

    async def away(*_: object) -> bool:
        return False

    async def hear(key: str, message: Control) -> bool:
        heard.append((key, message))
        return True

    presence, canceller = released.manager.presence, released.manager.canceller
    monkeypatch.setattr(presence, "send", away)
    for release in (one, two):
        await canceller.cancel(release.task_id)
    await released.report(Completed(two.task_id, 1, NOW, 0.1, b"5"))
    monkeypatch.setattr(presence, "send", hear)
    assert await canceller.remind() == 1
    assert heard == [("queue.default", CancelRuns([one.task_id]))]


async def test_waiter_is_woken_by_the_settle(released: Floor) -> None:
    one = released.releases[0]
    await released.manager.waiters.start()

    async def first() -> str:
        async for batch in released.manager.waiters.wait([one.task_id], 10):
            if batch:  # the first says that nothing was final yet
                return type(batch[0]).__name__
        raise AssertionError("the wait ended without an answer")

    waiting = asyncio.create_task(first())
    await asyncio.sleep(0)
    await released.report(Completed(one.task_id, 1, NOW, 0.1, b"5"))
    assert await waiting == "TaskView"


async def test_what_completes_while_somebody_waits_is_told_as_a_later_look_finds_it(floor: Floor) -> None:
    floor.join("k")
    ids = await floor.accept(2, priority=3, timeout=5.0)
    await floor.dispatch()
    reports = [Completed(task_id, 1, NOW, 0.1, b'{"sum":5}') for task_id in ids]
    moves = [complete(report, floor.session) for report in reports]
    applied = await store.apply(floor.manager.database.settle, moves, ids[:1].__contains__)
    views = {move.transition.task_id: move.view for move in applied}
    (read,) = (await tasks.ended(floor.manager.database, Results(), ids[:1]))[0]
    assert views == {ids[0]: read, ids[1]: None}


async def test_what_ends_otherwise_is_left_to_a_look(released: Floor) -> None:
    """Its error is made by Postgres."""
    one = released.releases[0]
    move = hand_back(Returned(one.task_id, 1, ReturnReason.SHUTDOWN), released.session)
    (applied,) = await store.apply(released.manager.database.settle, [move], lambda _: True)
    assert applied.view is None
