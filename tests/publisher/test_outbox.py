"""Publishing into an outbox: with the application's transaction or not at all, checked at once, in order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tacoq_publisher import ConfigurationError, InvalidTask, TaskCall, new_task_id, outbox
from tests.publisher.outboxes import Application, OnPostgres, OnSQLite, tasks_in
from tests.support.eventually import eventually


async def test_task_is_there_with_the_commit_and_its_id_is_the_one_returned(application: Application) -> None:
    ids: list[UUID] = []
    await application.commit(lambda session: ids.append(outbox.publish(session, "add", {"x": 2, "y": "ä\0"})))
    (task,) = await tasks_in(application)
    assert (task.id, task.kind, bytes(task.payload)) == (ids[0], "add", b'{"x":2,"y":"\xc3\xa4\\u0000"}')


async def test_nothing_is_there_of_what_is_rolled_back(application: Application) -> None:
    class Refund(Exception):
        pass

    def work(session: Any) -> None:
        outbox.publish(session, "add", 1)
        raise Refund

    with pytest.raises(Refund):
        await application.commit(work)
    assert await tasks_in(application) == []


def test_savepoint_that_is_rolled_back_takes_its_own_alone(sqlite: OnSQLite) -> None:
    with Session(sqlite.engine) as session, session.begin():
        kept = outbox.publish(session, "add", 1)
        with session.begin_nested() as savepoint:
            outbox.publish(session, "add", 2)
            savepoint.rollback()
    (task,) = asyncio.run(tasks_in(sqlite))
    assert task.id == kept


async def test_tasks_stand_in_the_order_of_their_publishes(application: Application) -> None:
    ids: list[UUID] = []

    def work(session: Any) -> None:
        ids.extend(outbox.publish(session, "add", number) for number in range(1_500))

    await application.commit(work)
    await application.commit(work)
    assert [task.id for task in await tasks_in(application)] == ids


async def test_every_kind_of_session_will_do(sqlite: OnSQLite, postgres: OnPostgres) -> None:
    plain = scoped_session(sessionmaker(sqlite.engine))
    outbox.publish(plain, "add", 1)
    plain.commit()
    plain.remove()
    assert len(await tasks_in(sqlite)) == 1

    awaited: async_scoped_session[AsyncSession] = async_scoped_session(
        async_sessionmaker(postgres.engine), scopefunc=asyncio.current_task
    )
    outbox.publish(awaited, "add", 1)
    await awaited.commit()
    await awaited.remove()
    assert len(await tasks_in(postgres)) == 1


async def test_a_call_of_a_handler_is_published_as_it_stands(sqlite: OnSQLite) -> None:
    call: TaskCall[int] = TaskCall("sum", "sums", b"[2,3]", int)
    await sqlite.commit(lambda session: outbox.publish(session, call, priority=3))
    (task,) = await tasks_in(sqlite)
    assert (task.kind, task.queue, bytes(task.payload), task.priority) == ("sum", "sums", b"[2,3]", 3)


async def test_every_option_is_passed_on(sqlite: OnSQLite) -> None:
    mine = new_task_id()
    await sqlite.commit(
        lambda session: outbox.publish(
            session,
            "add",
            {"x": 1},
            task_id=mine,
            queue="sums",
            fairness_key="acme",
            max_attempts=4,
            timeout="2s",
            idempotency_key="order-7",
            unique=("x",),
            on_conflict="replace",
        )
    )
    (task,) = await tasks_in(sqlite)
    assert (task.id, task.queue, task.fairness_key, task.max_attempts, task.timeout) == (mine, "sums", "acme", 4, 2.0)
    assert (task.idempotency_key, task.unique, task.on_conflict) == ("order-7", ("x",), "replace")


async def test_durations_count_from_the_publish_however_late_it_is_forwarded(sqlite: OnSQLite) -> None:
    before = datetime.now(UTC)
    await sqlite.commit(lambda session: outbox.publish(session, "add", delay="10m", expires=3_600))
    after = datetime.now(UTC)
    (task,) = await tasks_in(sqlite)
    assert task.run_at is not None
    assert task.expires_at is not None
    assert before <= task.run_at - timedelta(minutes=10) <= after
    assert before <= task.expires_at - timedelta(hours=1) <= after
    assert (task.delay, task.expires_in) == (None, None)


@pytest.mark.parametrize(
    ("kind", "payload", "options", "error", "says"),
    [
        ("no spaces", 1, {}, InvalidTask, "is not a kind"),
        ("add", {"x": float("nan")}, {}, InvalidTask, "is not JSON"),
        ("add", "x" * 1_100_000, {}, InvalidTask, "store the data elsewhere"),
        ("add", 1, {"colour": "red"}, ConfigurationError, "no option 'colour'"),
        ("add", 1, {"priority": 10}, ConfigurationError, "priority = 10"),
        ("add", 1, {"unique": True, "on_conflict": "reject"}, ConfigurationError, "an outbox gives none"),
        ("add", 1, {"delay": "1h", "expires": "10m"}, ConfigurationError, "would expire before it is due"),
    ],
)
async def test_what_cannot_be_published_is_refused_at_once_and_spoils_nothing(
    sqlite: OnSQLite, kind: str, payload: object, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    def work(session: Any) -> None:
        outbox.publish(session, "add", 1)
        with pytest.raises(error, match=says):
            outbox.publish(session, kind, payload, **options)

    await sqlite.commit(work)
    assert len(await tasks_in(sqlite)) == 1


async def test_a_call_and_a_payload_are_too_much(sqlite: OnSQLite) -> None:
    call: TaskCall[int] = TaskCall("sum", "", b"[2,3]", int)
    with Session(sqlite.engine) as session, pytest.raises(TypeError, match="not both"):
        outbox.publish(session, call, {"x": 1})  # type: ignore[call-overload]


@pytest.mark.parametrize("session", ["add", None, create_engine("sqlite://"), sessionmaker()])
def test_what_is_no_session_is_said_to_be_none(session: Any) -> None:
    with pytest.raises(TypeError, match="takes a SQLAlchemy Session or AsyncSession first, and not"):
        outbox.publish(session, "add", 1)


async def test_postgres_tells_of_each_commit_once_and_of_no_rollback(postgres: OnPostgres) -> None:
    heard: list[str] = []
    ear: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(postgres.url)
    await ear.add_listener(outbox.CHANNEL, lambda *_: heard.append("commit"))
    await ear.add_listener("end", lambda *_: heard.append("end"))
    async with AsyncSession(postgres.engine) as session:
        outbox.publish(session, "add", 1)
        await session.rollback()
        outbox.publish(session, "add", 2)
        outbox.publish(session, "add", 3)
        await session.commit()
        await session.execute(text("SELECT 1"))
        await session.commit()
        outbox.publish(session, "add", 4)
        async with session.begin_nested() as savepoint:
            async with session.begin_nested():
                outbox.publish(session, "add", 5)
            await savepoint.rollback()
        await session.commit()
    await postgres.execute(text('NOTIFY "end"'))
    await eventually(lambda: "end" in heard)
    assert heard == ["commit", "commit", "end"]
    await ear.close()


async def test_session_that_reads_elsewhere_notifies_where_it_writes(postgres: OnPostgres) -> None:
    """As in SQLAlchemy's own recipe for replicas, which take no NOTIFY. Here a reader reaches nothing."""
    nowhere = create_async_engine("postgresql+asyncpg://postgres@127.0.0.1:1/none")

    class Routed(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return (postgres.engine if self._flushing else nowhere).sync_engine

    heard = asyncio.Event()
    ear: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(postgres.url)
    await ear.add_listener(outbox.CHANNEL, lambda *_: heard.set())
    async with AsyncSession(sync_session_class=Routed) as session, session.begin():
        outbox.publish(session, "add", 1)
    await asyncio.wait_for(heard.wait(), 10)
    await ear.close()
    await nowhere.dispose()


def test_transaction_that_is_prepared_notifies_nobody() -> None:
    """Postgres would refuse to prepare it. The session has no database that could be asked."""
    session = Session(twophase=True)
    outbox.publish(session, "add", 1)
    outbox._notify(session, None)
    session.expunge_all()
