"""The embedded Postgres keeps its data, its directory to itself, and no process behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tacoq_embedded import pginstall
from tacoq_embedded.pginstall import EmbeddedPostgresError
from tacoq_embedded.postgres import DirectoryInUse, EmbeddedPostgres
from tests.support import Spawned, eventually, spawn

OWNER = """
import asyncio, sys
from tacoq_embedded.postgres import EmbeddedPostgres

async def own():
    async with EmbeddedPostgres(sys.argv[1]) as pg:
        print("server", pg.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(own())
"""

EXECS_ITSELF = """
import os, sys
from tacoq_embedded.postgres import HANDOVER, EmbeddedPostgres

again = HANDOVER in os.environ
pg = EmbeddedPostgres(sys.argv[1])
pg.start()
print("server", pg.pid, flush=True)
if not again:
    os.environ.update(pg.keep_over_exec())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
pg.stop()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's tmp_path."""
    parent = Path(tempfile.mkdtemp(prefix="tacoq-test-"))
    parent.chmod(0o755)
    yield parent / "t"
    shutil.rmtree(parent)


async def remember(pg: EmbeddedPostgres, number: int) -> None:
    connection = await asyncpg.connect(pg.url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (number int)")
    await connection.execute("INSERT INTO kept VALUES ($1)", number)
    await connection.close()


async def remembered(pg: EmbeddedPostgres) -> list[int]:
    connection = await asyncpg.connect(pg.url)
    rows = await connection.fetch("SELECT number FROM kept ORDER BY number")
    await connection.close()
    return [row["number"] for row in rows]


def servers(directory: Path) -> list[psutil.Process]:
    """The live servers of this directory's data, and their watchdogs."""
    data = str((directory / "postgres").resolve() / "data")
    return [process for process in psutil.process_iter(["cmdline"]) if data in (process.info["cmdline"] or [])]


def server_of(owner: Spawned) -> int:
    return int(owner.wait_for_log("server").split()[-1])


async def test_data_survive_a_restart_and_no_process_is_left(directory: Path) -> None:
    for number in (1, 2):
        async with EmbeddedPostgres(directory) as pg:
            await remember(pg, number)
            assert await remembered(pg) == list(range(1, number + 1))
        await eventually(lambda: not servers(directory), what="no process left")


async def test_listens_on_no_tcp_port(directory: Path) -> None:
    async with EmbeddedPostgres(directory) as pg:
        assert not psutil.Process(pg.pid).net_connections(kind="tcp")


async def test_second_owner_is_refused_by_name(directory: Path) -> None:
    with spawn(sys.executable, "-c", OWNER, directory) as owner:
        server_of(owner)
        with pytest.raises(DirectoryInUse, match=rf"{directory} is in use by process {owner.pid}"):
            EmbeddedPostgres(directory).start()
    async with EmbeddedPostgres(directory):
        with pytest.raises(DirectoryInUse):
            EmbeddedPostgres(directory).start()


async def test_server_ends_soon_after_its_owner_was_killed(directory: Path) -> None:
    with spawn(sys.executable, "-c", OWNER, directory) as owner:
        server_of(owner)
        owner.kill()
        await eventually(lambda: not servers(directory), what="no process left")


async def test_start_right_after_a_kill_finds_the_data(directory: Path) -> None:
    async with EmbeddedPostgres(directory) as pg:
        await remember(pg, 1)
    with spawn(sys.executable, "-c", OWNER, directory) as owner:
        server_of(owner)
        owner.kill()
        async with EmbeddedPostgres(directory) as pg:
            assert await remembered(pg) == [1]


async def test_start_ends_a_server_that_outlived_its_owner(directory: Path) -> None:
    with spawn(sys.executable, "-c", OWNER, directory) as owner:
        pid = server_of(owner)
        for process in servers(directory):
            if process.name() == "sh":
                process.kill()  # the watchdog
        owner.kill()
        assert psutil.pid_exists(pid)
        async with EmbeddedPostgres(directory) as pg:
            assert pg.pid != pid
            await remember(pg, 1)
        await eventually(lambda: not servers(directory), what="no process left")


async def test_interrupt_of_the_owner_stops_the_server_after_it(directory: Path) -> None:
    with spawn(sys.executable, "-c", OWNER, directory) as owner:
        server_of(owner)
        owner.send(signal.SIGINT)
        owner.wait()
        assert not [process for process in servers(directory) if process.name() == "postgres"]


async def test_path_longer_than_a_socket_address_allows(directory: Path) -> None:
    deep = directory / ("d" * 60) / ("e" * 60)
    async with EmbeddedPostgres(deep) as pg:
        await remember(pg, 1)
        socket_folder = Path(pg.url.partition("?host=")[2])
        assert socket_folder.exists()
    assert not socket_folder.exists()


async def test_folder_with_odd_characters(directory: Path) -> None:
    async with EmbeddedPostgres(directory / "a b,c'd&é") as pg:
        await remember(pg, 1)


async def test_server_stays_up_over_an_exec(directory: Path) -> None:
    with spawn(sys.executable, "-c", EXECS_ITSELF, directory) as owner:
        assert owner.wait() == 0, owner.log()
        _, before, _, after = owner.log().split()
        assert before == after
    await eventually(lambda: not servers(directory), what="no process left")


async def test_root_in_a_folder_closed_to_others(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pginstall, "SHARED", directory)
    tmp_path.chmod(0o700)
    for number in (1, 2):
        async with EmbeddedPostgres(tmp_path / ".tacoq") as pg:
            await remember(pg, number)
            assert await remembered(pg) == list(range(1, number + 1))
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / ".tacoq" / "postgres").is_symlink() == (os.geteuid() == 0)


async def test_programs_that_the_account_cannot_reach_are_copied(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        return  # an ordinary user runs what it has installed
    directory.mkdir()
    monkeypatch.setattr(pginstall, "SHARED", directory)
    nobody = pginstall.account_for(directory / "none")
    programs = pginstall.programs_for(directory / "none", None)
    copied = pginstall._copied(programs)
    assert nobody is not None
    assert nobody.can("-x", copied / "postgres")
    done = await asyncio.create_subprocess_exec(copied / "initdb", "--version")
    assert await done.wait() == 0
    assert pginstall._copied(programs) == copied


async def test_data_of_an_unknown_version_are_refused_and_the_directory_is_free_again(directory: Path) -> None:
    async with EmbeddedPostgres(directory):
        pass
    version = directory / "postgres" / "data" / "PG_VERSION"
    right = version.read_text()
    version.write_text("9\n")
    for _ in range(2):
        with pytest.raises(EmbeddedPostgresError, match="was made by Postgres 9"):
            EmbeddedPostgres(directory).start()
    version.write_text(right)
    async with EmbeddedPostgres(directory):
        pass


async def test_a_failed_start_shows_the_servers_own_words(directory: Path) -> None:
    async with EmbeddedPostgres(directory):
        pass
    with (directory / "postgres" / "data" / "postgresql.conf").open("a") as settings:
        settings.write("nonsense = 1\n")
    with pytest.raises(EmbeddedPostgresError, match="nonsense"):
        EmbeddedPostgres(directory).start()
    assert not servers(directory)
