"""What the tests of limits share: tasks of fairness keys, changes, takeovers, and time that passes in Postgres."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tacoq_manager.store import limits as store
from tacoq_manager.store.claim import Flow
from tacoq_protocol.limits import KindLimits
from tacoq_protocol.messages import Completed
from tests.stages.floor import Floor

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FLOW = Flow("default", "k")


async def complete(floor: Floor, *ids: UUID) -> None:
    """Report these as completed."""
    released = {release.task_id: release.release for release in floor.releases}
    await floor.report(*[Completed(task_id, released[task_id], NOW, 0.1, b"1") for task_id in ids])


def keys(floor: Floor, since: int = 0) -> Counter[str]:
    """How many releases came by the first word of their payloads."""
    return Counter(release.payload.decode().strip('"') for release in floor.releases[since:])


async def accept_keyed(floor: Floor, count: int, *names: str, **options: Any) -> None:
    for name in names:
        await floor.accept(count, payload=f'"{name}"'.encode(), fairness_key=name, **options)


async def set_kind(floor: Floor, limits: KindLimits) -> None:
    """Set the limits of the kind, which the registry has to know."""
    await floor.connection.execute(
        "INSERT INTO kinds (queue, name, spec) VALUES ('default', 'k', '{}') ON CONFLICT DO NOTHING"
    )
    await floor.manager.limiting.set_kind(FLOW, limits)


async def take_over(floor: Floor) -> None:
    """The manager gives the lead up and takes it again, as another one would: it knows nothing any more."""
    await floor.manager.leader.give_up()
    floor.manager.limits.load(store.Loaded(-1, {}, {}, []))
    floor.manager.limits.forget()
    await floor.manager.leader.step()


async def tokens(floor: Floor) -> dict[tuple[str, str | None, str | None], int]:
    """Whole tokens that were left when they were last drawn on."""
    rows = await floor.connection.fetch("SELECT queue, kind, fairness_key, tokens FROM buckets")
    return {(row["queue"], row["kind"], row["fairness_key"]): int(row["tokens"]) for row in rows}


async def later(floor: Floor, seconds: float) -> None:
    """Let time pass for Postgres, and learn from it what there is now, as a new leader does."""
    await floor.connection.execute("UPDATE buckets SET as_of = as_of - make_interval(secs => $1)", seconds)
    await floor.connection.execute("UPDATE holds SET until = until - make_interval(secs => $1)", seconds)
    await take_over(floor)
