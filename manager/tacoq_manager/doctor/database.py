"""Postgres: is it there, as new as it has to be, durable, with room, of our time, and of our schema."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy.engine import make_url

from tacoq_manager.doctor.findings import Finding, ok, problem, warning
from tacoq_manager.store import vitals
from tacoq_manager.store.engine import CONNECTIONS
from tacoq_manager.store.migrate import OldSchema, UnknownSchema, check_revision
from tacoq_manager.store.reading import Reader
from tacoq_manager.store.schema import PARTITIONED
from tacoq_manager.store.vitals import Server
from tacoq_protocol.ids import MAX_AHEAD

OLDEST_MAJOR: Final = 15  # the first with NULLS NOT DISTINCT
CLOCK_SECONDS: Final = 1.0  # off by more is a warning

_DURABLE: Final = "what was answered as accepted may be lost when the server or its machine stops"


def place(url: str) -> str:
    """Return a database URL as it may be shown."""
    return make_url(url).set(password=None, query={}).render_as_string()


def of_server(server: Server, url: str) -> list[Finding]:
    """Judge how the server is set."""
    return [_version(server, url), _durability(server), _connections(server)]


def _version(server: Server, url: str) -> Finding:
    says = f"Postgres {server.version} at {place(url)}"
    if server.major < OLDEST_MAJOR:
        return problem("postgres", says, f"TacoQ needs Postgres {OLDEST_MAJOR} or later: upgrade it")
    if server.takes_nothing:
        return problem("postgres", f"{says} takes no writes", "have TACOQ_DATABASE_URL lead to the primary")
    return ok("postgres", says)


def _durability(server: Server) -> Finding:
    settings = ("fsync", "full_page_writes", "synchronous_commit")
    off = [name for name in settings if not getattr(server, name)]
    if off:
        return problem("durability", f"{', '.join(off)} off: {_DURABLE}", "turn it on, for this user and database, too")
    return ok("durability", "fsync, full_page_writes and synchronous_commit are on")


def _connections(server: Server) -> Finding:
    says = f"{max(0, server.connections_left)} connections are left, and a manager takes up to {CONNECTIONS}"
    if server.connections_left < CONNECTIONS:
        return warning("connections", says, "raise max_connections before another manager starts")
    return ok("connections", says)


async def clock(reader: Reader) -> Finding:
    """Compare the clocks; half of the way there and back is taken for the way back."""
    asked = datetime.now(UTC)
    there = await vitals.clock(reader)
    return of_clock(asked, there, datetime.now(UTC))


def of_clock(asked: datetime, there: datetime, answered: datetime) -> Finding:
    way = (answered - asked) / 2
    off = (there - asked - way).total_seconds()
    if abs(off) - way.total_seconds() <= CLOCK_SECONDS:
        return ok("clock", f"this machine's is within {CLOCK_SECONDS:g} s of that of the database")
    return warning(
        "clock",
        f"this machine's is {abs(off):.1f} s {'behind' if off > 0 else 'ahead of'} that of the database",
        "keep both by NTP: workers tell deadlines by theirs, and ids a day ahead are refused",
    )


async def schema(reader: Reader) -> Finding:
    """Compare the schema's revision with that of this version."""
    found = await vitals.revision(reader)
    try:
        check_revision(found)
    except OldSchema as old:
        return problem("schema", str(old).partition(";")[0], "run: tacoq migrate")
    except UnknownSchema as newer:
        return problem("schema", str(newer).rpartition(":")[0], "upgrade tacoq-manager")
    return ok("schema", f"it is at {found}, as this version needs it")


async def partitions(reader: Reader, today: date) -> Finding:
    """Look for the days whose ids may come now, and for what lies in DEFAULT though its day is one of them."""
    missing: list[str] = []
    lying: list[str] = []
    for table in PARTITIONED:
        days = await vitals.partitions(reader, table)
        wanted = [today + timedelta(days=ahead) for ahead in range(MAX_AHEAD.days + 1)]
        missing += [f"{table}_{day:%Y%m%d}" for day in wanted if day not in days]
        strays = await vitals.strays(reader, table, today)
        lying += [f"{strays:,}{' or more' if strays >= vitals.MOST_COUNTED else ''} in {table}_default"] * (strays > 0)
    do = "see what the leading manager logs of tacoq.partitions: it makes them, every 10 minutes"
    if missing:
        return warning("partitions", f"there is no {', '.join(missing)}: what ends goes to the default one", do)
    if lying:
        return warning("partitions", f"rows of days that have no partition: {', '.join(lying)}", do)
    return ok("partitions", "those of today and tomorrow are there, and none has rows in the default one")
