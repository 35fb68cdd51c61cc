"""The forwarder: what was committed reaches the manager, in order, once, through faults on either side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import insert, select, text, update

from tacoq_protocol.errors import ConfigurationError
from tacoq_publisher import forwarder as forwarder_module
from tacoq_publisher import new_task_id, outbox
from tacoq_publisher.forwarder import Forwarder
from tacoq_publisher.manager import Manager
from tacoq_publisher.outbox_rows import MOST, OutboxUnavailable, Rows
from tacoq_publisher.settings import load_settings
from tacoq_publisher.transport import Transport
from tests.publisher.outboxes import Application, OnPostgres, OnSQLite, tasks_in
from tests.publisher.scripted_manager import REFUSED_KIND, VAGUE_KIND, ScriptedManager
from tests.publisher.steps import as_usual, busy, cut_after_doing, refuses, says
from tests.support.eventually import eventually

SOON = 0.2  # seconds: the publishers' 10 are long


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(forwarder_module, "POLL_SECONDS", 0.05)


@asynccontextmanager
async def forwarding(application: Application, manager: ScriptedManager) -> AsyncIterator[Forwarder]:
    """A forwarder at work."""
    rows = Rows(application.url)
    async with Transport(load_settings(manager.url), retry_for=SOON, try_seconds=5.0) as transport:
        forwarder = Forwarder(rows, Manager(transport))
        running = asyncio.create_task(forwarder.run())
        try:
            yield forwarder
            assert not running.done(), "it goes on, whatever happens"
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await rows.close()


async def publish(application: Application, *kinds: str, size: int = 0) -> list[UUID]:
    """Commit a task of each of these kinds, in one transaction, with so many bytes."""
    ids: list[UUID] = []

    def work(session: Any) -> None:
        ids.extend(outbox.publish(session, kind, {"kind": kind, "more": "x" * size}) for kind in kinds)

    await application.commit(work)
    return ids


def empty(application: Application) -> Callable[[], Any]:
    async def is_empty() -> bool:
        return not await tasks_in(application)

    return is_empty


async def errors(application: Application) -> list[str | None]:
    return [error for (error,) in await application.execute(select(outbox.table.c.error).order_by(outbox.table.c.seq))]


async def test_what_was_committed_is_accepted_in_order_and_leaves(
    application: Application, manager: ScriptedManager
) -> None:
    ids = await publish(application, *["add"] * (2 * MOST + 1))
    async with forwarding(application, manager):
        ids += await publish(application, "late")
        await eventually(empty(application))
    assert list(manager.accepted) == ids


async def test_one_that_the_manager_refuses_stays_with_the_reason_and_holds_up_nobody(
    application: Application, manager: ScriptedManager, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await publish(application, "add", REFUSED_KIND, "add", VAGUE_KIND, "add")

    async def told() -> bool:
        refused = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert {record.__dict__["task_id"] for record in refused} == {ids[1], ids[3]}
        found = await errors(application)
        return len(found) == 2 and all(found)

    async with forwarding(application, manager):
        await eventually(told)
        assert list(manager.accepted) == [ids[0], ids[2], ids[4]]

        good = outbox.table.c.task
        mended = update(outbox.table).values(task=text("replace(replace(task, 'refused', 'ok'), 'vague', 'ok')"))
        assert REFUSED_KIND in str((await application.execute(select(good)))[0])
        await application.execute(mended.values(error=None))
        await eventually(empty(application))
    assert list(manager.accepted) == [ids[0], ids[2], ids[4], ids[1], ids[3]]


async def test_reason_may_have_any_character(application: Application, manager: ScriptedManager) -> None:
    """It quotes the payload, and Postgres keeps no NUL."""
    bad, good = await publish(application, "add", "add")
    manager.script("/tasks/batch", refuses(422, "'a\0b' was unexpected", index=0))

    async def told() -> bool:
        return await errors(application) == ["'a\\0b' was unexpected"]

    async with forwarding(application, manager):
        await eventually(told)
    assert list(manager.accepted) == [good]
    assert [task.id for task in await tasks_in(application)] == [bad]


async def test_rows_that_are_no_tasks_spoil_no_request(application: Application, manager: ScriptedManager) -> None:
    """Whoever wrote them by hand sees what is wrong."""
    good = (await publish(application, "add"))[0]
    other = f'{{"id":"{new_task_id()}","kind":"add","payload":1}}'
    for task in ("not JSON", f"{other},{other}", "", other.replace("add", "a\0b")):
        await application.execute(insert(outbox.table).values(id=new_task_id(), task=task.replace("\0", "\\u0000")))
    last = (await publish(application, "add"))[0]

    async def told() -> bool:
        found = await errors(application)
        return len(found) == 4 and all("is not the JSON of a task" in str(error) for error in found)

    async with forwarding(application, manager):
        await eventually(told)
    assert list(manager.accepted) == [good, last]


async def test_what_sqlite_lets_others_write_is_no_end(sqlite: OnSQLite, manager: ScriptedManager) -> None:
    mine = new_task_id()
    task = f'{{"id":"{mine}","kind":"add","payload":1}}'
    row = "INSERT INTO tacoq_outbox (id, task) VALUES ('no uuid', {})"
    for value in (f"CAST('{task}' AS BLOB)", "7", "x'ff00'"):
        await sqlite.execute(text(row.format(value).replace(":", "\\:")))

    async def told() -> bool:
        return len(await errors(sqlite)) == 2

    async with forwarding(sqlite, manager):
        await eventually(told)
    assert list(manager.accepted) == [mine]


async def test_answer_that_is_lost_is_asked_for_again(application: Application, manager: ScriptedManager) -> None:
    ids = await publish(application, "add", "add")
    manager.script("/tasks/batch", cut_after_doing)
    async with forwarding(application, manager):
        await eventually(empty(application))
    assert list(manager.accepted) == ids
    assert [seen.ids for seen in manager.requests("/tasks/batch")] == [ids, ids]


async def test_rows_that_could_not_be_deleted_are_sent_again_and_accepted_once(
    sqlite: OnSQLite, manager: ScriptedManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await publish(sqlite, "add", "add")
    settle, broken = Rows.settle, iter([True, True, False])

    async def breaks(rows: Rows, *args: Any) -> None:
        if next(broken, False):
            raise OutboxUnavailable("away")
        await settle(rows, *args)

    monkeypatch.setattr(Rows, "settle", breaks)
    async with forwarding(sqlite, manager):
        await eventually(empty(sqlite))
    assert list(manager.accepted) == ids
    assert len(manager.requests("/tasks/batch")) == 3


async def test_while_the_manager_is_away_rows_wait_and_it_is_told_once(
    application: Application, manager: ScriptedManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tacoq.outbox")
    ids = await publish(application, "add", "add")
    await manager.stop()
    async with forwarding(application, manager) as forwarder:
        await eventually(lambda: forwarder._trouble)
        ids += await publish(application, "add")
        assert len(await tasks_in(application)) == 3
        await manager.start()
        await eventually(empty(application))
        await eventually(lambda: "the outbox goes on" in caplog.messages)
    assert list(manager.accepted) == ids
    assert caplog.messages.count("the outbox waits, and tries again") == 1


@pytest.mark.parametrize("answer", [busy(503), busy(429), says(b"who is there?", status=401), says(b"{}")])
async def test_an_answer_that_decides_nothing_leaves_the_rows(
    sqlite: OnSQLite, manager: ScriptedManager, answer: Any
) -> None:
    ids = await publish(sqlite, "add", "add")
    manager.script("/tasks/batch", *[answer] * 8)
    async with forwarding(sqlite, manager):
        await eventually(empty(sqlite))
    assert list(manager.accepted) == ids
    assert await errors(sqlite) == []


async def test_nothing_is_sent_after_a_request_that_failed(sqlite: OnSQLite, manager: ScriptedManager) -> None:
    """Who is accepted later stood behind."""
    ids = await publish(sqlite, *["add"] * 10, size=1_000_000)
    manager.script("/tasks/batch", as_usual, says(b"who is there?", status=404))
    async with forwarding(sqlite, manager):
        await eventually(empty(sqlite))
    assert list(manager.accepted) == ids
    assert len(manager.requests("/tasks/batch")) >= 4, "it takes several"


async def test_postgres_wakes_it(
    postgres: OnPostgres, manager: ScriptedManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_module, "POLL_SECONDS", 3600.0)
    async with forwarding(postgres, manager):
        for count in range(1, 4):
            await publish(postgres, "add")
            await eventually(empty(postgres))
            assert len(manager.accepted) == count


async def test_connections_to_postgres_that_are_lost_are_made_again(
    postgres: OnPostgres, manager: ScriptedManager
) -> None:
    async def ears() -> set[int]:
        listening = f"SELECT pid FROM pg_stat_activity WHERE query ILIKE 'LISTEN %{outbox.CHANNEL}%'"
        return {pid for (pid,) in await postgres.execute(text(listening))}

    async with forwarding(postgres, manager):
        (old,) = await eventually(ears)
        await postgres.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )

        async def others() -> set[int]:
            return await ears() - {old}

        await eventually(others)
        (task_id,) = await publish(postgres, "add")
        await eventually(empty(postgres))
    assert list(manager.accepted) == [task_id]


async def test_two_forwarders_do_no_harm(application: Application, manager: ScriptedManager) -> None:
    ids = await publish(application, *["add"] * (3 * MOST))
    async with forwarding(application, manager), forwarding(application, manager):
        await eventually(empty(application))
    assert list(manager.accepted) == ids


async def test_task_that_was_published_twice_under_one_id_is_one(
    application: Application, manager: ScriptedManager
) -> None:
    mine = new_task_id()
    for _ in range(2):
        await application.commit(lambda session: outbox.publish(session, "add", 1, task_id=mine))
    async with forwarding(application, manager):
        await eventually(empty(application))
    assert list(manager.accepted) == [mine]


async def test_a_database_without_the_table_is_an_error_that_says_how_to_make_it(
    sqlite: OnSQLite, database: str, manager: ScriptedManager
) -> None:
    outbox.metadata.drop_all(sqlite.engine)
    for url in (sqlite.url, database):
        rows = Rows(url)
        async with Transport(load_settings(manager.url), retry_for=SOON, try_seconds=5.0) as transport:
            forwarder = Forwarder(rows, Manager(transport))
            with pytest.raises(ConfigurationError, match=r"no table tacoq_outbox in .*create_all"):
                await forwarder.run()
        await rows.close()


async def test_listening_that_fails_is_tried_again(postgres: OnPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, listen, heard = Rows(postgres.url), asyncpg.Connection.add_listener, asyncio.Event()

    async def fails(*_: object) -> None:
        raise ConnectionResetError("the link broke")

    monkeypatch.setattr(asyncpg.Connection, "add_listener", fails)
    with pytest.raises(OutboxUnavailable, match="the link broke"):
        await rows.listen(heard.set)
    monkeypatch.setattr(asyncpg.Connection, "add_listener", listen)
    await rows.listen(heard.set)
    await publish(postgres, "add")
    await asyncio.wait_for(heard.wait(), 10)
    await rows.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "give one as SQLAlchemy has it"),
        ("//user:secret@host", "give one as SQLAlchemy has it"),
        ("postgresql://user:secret@host:port/app", "give one as SQLAlchemy has it"),
        ("nosuch://user:secret@host/app", "needs a driver"),
        ("sqlite://", "give sqlite:///app.db"),
        ("mysql+aiomysql://user:secret@host/app", "needs a driver"),
    ],
)
def test_an_url_that_leads_nowhere_is_an_error_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        Rows(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:se@cret@host/app",
        "postgresql://host/app?user=me&password=cret",
        "postgresql://me:cret@host/app",
    ],
)
async def test_place_of_the_outbox_is_told_without_who_may_go_there(url: str) -> None:
    rows = Rows(url)
    assert rows.place == "postgresql://host/app"
    await rows.close()


async def test_database_that_is_not_there_yet_is_waited_for(postgres: OnPostgres) -> None:
    rows = Rows(f"{postgres.url}_missing")
    with pytest.raises(OutboxUnavailable, match="does not exist"):
        await rows.first()
    await rows.close()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
async def test_postgres_is_asked_by_asyncpg_whatever_the_application_uses(scheme: str, postgres: OnPostgres) -> None:
    url = postgres.url.replace("postgresql", scheme, 1)
    for more in (
        "sslmode=prefer&connect_timeout=10&application_name=shop",
        "ssl=prefer&prepared_statement_cache_size=0",
    ):
        rows = Rows(f"{url}?{more}")
        assert await rows.exist()
        await rows.close()
