"""The doctor: all ok of a system that is, and each thing that is broken told, with what to do."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import pytest
import pytest_asyncio

from scripts.services import PrivatePostgres, PrivateRedis
from tacoq_manager.doctor import database, door, work
from tacoq_manager.doctor.door import Answer
from tacoq_manager.doctor.examine import examine
from tacoq_manager.doctor.findings import Level
from tacoq_manager.settings import LookSettings
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.engine import CONNECTIONS, DatabaseUnavailable
from tacoq_manager.store.migrate import downgrade
from tacoq_manager.store.reading import reading
from tacoq_manager.store.vitals import LiveWorker, Server
from tests.manager.looking import (
    WORKER,
    add_task,
    bad,
    command,
    execute,
    publish,
    told,
)
from tests.support import free_port

CHECKS = {
    "settings", "postgres", "durability", "connections", "clock", "schema", "partitions", "leader", "workers", "kinds",
    "rabbitmq", "topology", "reports", "dead letters", "task queues", "alarms", "manager",
}  # fmt: skip
NOBODY = "amqp://guest:guest@127.0.0.1:1/"


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_a_system_that_is_well_is_all_ok_and_is_left_as_it_was(settings: LookSettings) -> None:
    await add_task(settings.database_url)
    findings = await examine(settings)
    assert bad(findings) == {}
    assert {finding.check for finding in findings} == CHECKS
    assert all(finding.do is None for finding in findings)
    assert str(WORKER) not in str(findings)
    async with await aio_pika.connect(settings.broker_url) as link, link.channel() as channel:
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):  # it asked for this one, and made none
            await channel.get_queue(settings.topology.task_queue_name("post"))


async def test_it_looks_by_reading_alone(database: str) -> None:
    async with reading(database, "test", seconds=5) as reader:
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            await reader.fetch("UPDATE leader SET epoch = epoch + 1")


async def test_a_look_that_takes_too_long_is_ended_by_postgres(database: str) -> None:
    async with reading(database, "test", seconds=0.1) as reader:
        with pytest.raises(DatabaseUnavailable, match="statement timeout"):
            await reader.fetch("SELECT pg_sleep(30)")
        assert await reader.fetch("SELECT 1")  # and the connection is still of use


async def test_what_is_away_hides_nothing_else(settings: LookSettings, database: str) -> None:
    away = "postgresql://me:geheim@127.0.0.1:1/none"
    looks = LookSettings(
        database_url=away, broker_url=NOBODY, namespace=settings.namespace, manager_url="http://127.0.0.1:1"
    )
    findings = await examine(looks)
    assert bad(findings) == dict.fromkeys(("postgres", "rabbitmq", "manager"), Level.PROBLEM)
    assert "geheim" not in str(findings)
    part = await examine(settings.model_copy(update={"broker_url": NOBODY}))
    assert bad(part) == {"rabbitmq": Level.PROBLEM}
    assert "127.0.0.1:1" in told(part, "rabbitmq").says
    part = await examine(settings.model_copy(update={"database_url": away}))
    assert bad(part) == {"postgres": Level.PROBLEM}
    part = await examine(settings.model_copy(update={"manager_url": "http://me:geheim@127.0.0.1:1"}))
    assert bad(part) == {"manager": Level.PROBLEM}
    assert "geheim" not in str(part)


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up(settings: LookSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        looks = LookSettings(
            database_url=f"postgresql://postgres@127.0.0.1:{port}/x",
            broker_url=f"amqp://guest:guest@127.0.0.1:{port}/",
            manager_url=f"http://127.0.0.1:{port}",
            results_url=f"redis://127.0.0.1:{port}/0",
        )
        async with asyncio.timeout(40):
            findings = await examine(looks)
    assert bad(findings) == dict.fromkeys(("postgres", "rabbitmq", "manager", "results"), Level.PROBLEM)


async def test_a_frozen_postgres_ends_the_look(
    private_postgres: PrivatePostgres, private_database: str, settings: LookSettings
) -> None:
    private_postgres.freeze()
    async with asyncio.timeout(40):
        findings = await examine(settings.model_copy(update={"database_url": private_database}))
    assert bad(findings) == {"postgres": Level.PROBLEM}


async def test_a_schema_that_is_not_this_versions(
    settings: LookSettings, connection: asyncpg.Connection[Any], databases: Any
) -> None:
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    newer = told(await examine(settings), "schema")
    assert (newer.level, newer.do) == (Level.PROBLEM, "upgrade tacoq-manager")
    name = await databases.create()
    await downgrade(databases.url_of(name), "0004")
    older = told(await examine(settings.model_copy(update={"database_url": databases.url_of(name)})), "schema")
    assert (older.level, older.do) == (Level.PROBLEM, "run: tacoq migrate")
    await downgrade(databases.url_of(name), "base")
    none = told(await examine(settings.model_copy(update={"database_url": databases.url_of(name)})), "schema")
    assert (none.level, none.do) == (Level.PROBLEM, "run: tacoq migrate")
    gone = databases.url_of("tacoq_that_is_not")
    missing = told(await examine(settings.model_copy(update={"database_url": gone})), "postgres")
    assert missing.do is not None
    assert "`tacoq migrate` makes" in missing.do


async def test_a_postgres_that_may_lose_what_it_committed(private_database: str, settings: LookSettings) -> None:
    found = await examine(settings.model_copy(update={"database_url": private_database}))  # of tests: no fsync
    assert told(found, "durability").level is Level.PROBLEM
    assert told(found, "durability").says.startswith("fsync off")
    name = urlsplit(private_database).path[1:]
    await execute(private_database, f"ALTER DATABASE {name} SET synchronous_commit = 'off'")
    await execute(private_database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    found = await examine(settings.model_copy(update={"database_url": private_database}))
    assert "fsync, synchronous_commit off" in told(found, "durability").says
    assert "takes no writes" in told(found, "postgres").says
    assert told(found, "leader").level is Level.PROBLEM  # nobody ever led there


SERVER = Server("17.2", 17, True, True, True, CONNECTIONS, False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"major": 14}, {"postgres": Level.PROBLEM}),
        ({"takes_nothing": True}, {"postgres": Level.PROBLEM}),
        ({"full_page_writes": False}, {"durability": Level.PROBLEM}),
        ({"synchronous_commit": False}, {"durability": Level.PROBLEM}),
        ({"connections_left": CONNECTIONS - 1}, {"connections": Level.WARNING}),
    ],
)
def test_how_a_server_is_set(change: dict[str, Any], expected: dict[str, Level]) -> None:
    findings = database.of_server(SERVER._replace(**change), "postgresql://me:geheim@db/x?password=geheim")
    assert bad(findings) == expected
    assert "geheim" not in str(findings)


@pytest.mark.parametrize(
    ("way", "off", "level"),
    [(0.0, 0.9, Level.OK), (0.0, 1.1, Level.WARNING), (0.0, -1.1, Level.WARNING), (4.0, 2.5, Level.OK)],
)
def test_clocks_are_compared_as_well_as_the_way_there_allows(way: float, off: float, level: Level) -> None:
    asked = datetime(2030, 1, 1, tzinfo=UTC)
    there = asked + timedelta(seconds=way / 2 + off)
    assert database.of_clock(asked, there, asked + timedelta(seconds=way)).level is level


async def test_partitions_that_are_missing_and_rows_that_lie_in_the_default_one(
    settings: LookSettings, connection: asyncpg.Connection[Any]
) -> None:
    today = datetime.now(UTC).date()
    tomorrow = today + timedelta(days=1)
    stray = UUID(int=int(datetime.now(UTC).timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62)
    await connection.execute(f"DROP TABLE task_history_{tomorrow:%Y%m%d}")
    found = told(await examine(settings), "partitions")
    assert (found.level, f"task_history_{tomorrow:%Y%m%d}" in found.says) == (Level.WARNING, True)
    await connection.execute(f"DROP TABLE attempts_{today:%Y%m%d}")
    await connection.execute(
        "INSERT INTO attempts (task_id, release, attempt, outcome, ended_at) VALUES ($1, 1, 1, 'failed', now())", stray
    )
    await connection.execute(f"CREATE TABLE task_history_{tomorrow:%Y%m%d} ()")
    await connection.execute(f"CREATE TABLE attempts_{today:%Y%m%d} ()")
    found = told(await examine(settings), "partitions")
    assert (found.level, "1 in attempts_default" in found.says) == (Level.WARNING, True)


async def test_no_leader(settings: LookSettings, database: str, databases: Any) -> None:
    other = databases.url_of(await databases.create())
    assert "no manager leads" in told(await examine(settings.model_copy(update={"database_url": other})), "leader").says
    await execute(other, "UPDATE leader SET holder = $1, expires_at = now() - interval '1 minute'", uuid4())
    found = told(await examine(settings.model_copy(update={"database_url": other})), "leader")
    assert found.level is Level.PROBLEM
    assert "led until" in found.says
    assert told(await examine(settings.model_copy(update={"database_url": other})), "workers").level is Level.WARNING


async def test_kinds_that_nobody_knows(settings: LookSettings) -> None:
    await add_task(settings.database_url, kind="snd")
    await add_task(settings.database_url, queue="post")
    findings = [finding for finding in await examine(settings) if finding.check == "kinds"]
    assert [finding.level for finding in findings] == [Level.PROBLEM] * 2
    assert "post" in findings[0].says
    assert "'snd' of mail" in findings[1].says


def test_a_kind_that_some_do_not_know() -> None:
    live = [LiveWorker(uuid4(), "mail", frozenset(kinds)) for kinds in ({"send"}, {"send", "new"})]
    (found,) = work.of_kinds([Flow("mail", "send"), Flow("mail", "new")], live)
    assert (found.level, "'new' of mail, 1 of 2" in found.says) == (Level.WARNING, True)


@pytest.mark.parametrize(
    ("answer", "level", "says"),
    [
        (Answer(200, {"status": "ready", "version": version("tacoq-manager"), "broker": "open"}), Level.OK, "is ready"),
        (Answer(200, {"status": "ready", "version": "9.9", "broker": "open"}), Level.WARNING, "this is version"),
        (Answer(200, {"status": "ready", "broker": "open"}), Level.WARNING, "of version unknown"),
        (Answer(503, {"detail": "the manager is stopping"}), Level.PROBLEM, "the manager is stopping"),
        (Answer(200, {}), Level.PROBLEM, "is no manager"),
        (Answer(404, {}), Level.PROBLEM, "is no manager"),
    ],
)
def test_what_a_manager_may_answer(answer: Answer, level: Level, says: str) -> None:
    (finding,) = door.of_answer(answer, "http://h")
    assert (finding.level, says in finding.says) == (level, True)


def test_links_of_a_manager_that_are_away() -> None:
    ours = {"status": "ready", "version": version("tacoq-manager")}
    findings = door.of_answer(Answer(200, ours | {"broker": "closed", "results": "away"}), "http://h")
    assert [finding.level for finding in findings] == [Level.OK, Level.PROBLEM, Level.WARNING]


async def test_what_answers_there_is_no_manager(settings: LookSettings, broker_url: str) -> None:
    parts = urlsplit(broker_url)
    rabbit = settings.model_copy(update={"manager_url": f"http://{parts.hostname}:{parts.port or 5672}"})
    assert told(await examine(rabbit), "manager").level is Level.PROBLEM  # it answers in its own protocol


async def test_a_redis(settings: LookSettings, private_redis: PrivateRedis) -> None:
    looks = settings.model_copy(update={"results_url": private_redis.redis_url})
    assert told(await examine(looks), "results").level is Level.OK
    replica = PrivateRedis()
    try:
        replica.start()
        port = str(urlsplit(private_redis.redis_url).port)
        await _redis(replica.redis_url, "REPLICAOF", "127.0.0.1", port)
        followed = settings.model_copy(update={"results_url": replica.redis_url})
        assert "replica" in told(await examine(followed), "results").says
    finally:
        replica.close()
    private_redis.stop()
    assert told(await examine(looks), "results").level is Level.PROBLEM


async def _redis(url: str, *words: str) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as redis:
        await redis.execute_command(*words)  # type: ignore[no-untyped-call]


async def test_the_command(settings: LookSettings) -> None:
    env = {
        "TACOQ_DATABASE_URL": settings.database_url,
        "TACOQ_BROKER_URL": settings.broker_url,
        "TACOQ_NAMESPACE": settings.namespace,
        "TACOQ_MANAGER_URL": settings.manager_url,
    }
    code, output = await command("doctor", env=env)
    assert (code, "problem" in output, "→" in output) == (0, False, False)
    assert {line.split(":")[0].split(maxsplit=1)[1] for line in output.splitlines()} == CHECKS
    await publish(settings, settings.topology.dead_queue.name)
    code, output = await command("doctor", env=env)
    assert (code, "warning  dead letters: 1 messages" in output) == (0, True)
    env["TACOQ_DATABASE_URL"] = "postgresql://me:geheim@127.0.0.1:1/none"
    code, output = await command("doctor", "--json", env=env)
    answer = json.loads(output)
    assert (code, answer["healthy"]) == (1, False)
    assert "geheim" not in output
    assert {"check": "postgres", "level": "problem"}.items() <= answer["findings"][1].items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://me:geheim@h/x"),
        ("RETENTION", "1h"),
        ("MANAGER_URL", "geheim"),
        ("MANAGER_URL", "http://h:x"),
    ],
)
async def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    code, output = await command("doctor", env={f"TACOQ_{name}": value})
    assert (code, f"problem  settings: TACOQ_{name}: " in output) == (1, True)
    assert "geheim" not in output
    assert len(output.splitlines()) == 2


async def test_an_unknown_option_is_exit_2() -> None:
    assert (await command("doctor", "--loud"))[0] == 2
    assert (await command("verify", "--days", "0"))[0] == 2


async def test_urls_that_are_malformed_are_not_repeated() -> None:
    env = {
        "TACOQ_DATABASE_URL": "postgresql://me:geheim@h:port/x",
        "TACOQ_BROKER_URL": "amqp://me:geheim@h:port/",
        "TACOQ_MANAGER_URL": f"http://me:geheim@127.0.0.1:{free_port()}",
    }
    code, output = await command("doctor", env=env)
    assert (code, "geheim" in output, "Traceback" in output) == (1, False, False)
