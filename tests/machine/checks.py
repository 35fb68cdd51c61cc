"""What must hold: who goes first, what is counted, and that nothing is freed which somebody has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from tacoq_manager.store.claim import LAST_CHANCE
from tacoq_manager.store.invariants import INVARIANTS, broken
from tacoq_manager.store.reading import Reader
from tacoq_protocol.messages import Fence
from tacoq_protocol.states import TaskState
from tests.machine.model import Task
from tests.machine.played import FEW, QUEUE
from tests.machine.world import World

RELEASED = {TaskState.QUEUED, TaskState.RUNNING}
SEEN = ("state", "release", "attempt", "crashes", "cancel_requested", "result")
OF_TASKS = {"one place", "live tasks", "final tasks", "one outcome"}
Rows = Mapping[UUID, asyncpg.Record]


def assert_as_the_model_has_it(rows: Rows, tasks: Mapping[UUID, Task], world: World) -> None:
    """Every task is stored once, as its moves make it; no fence is used twice; what may run once only does."""
    assert rows.keys() == tasks.keys(), "what is accepted is stored"
    for task in tasks.values():
        seen = tuple(rows[task.id][name] for name in SEEN)
        assert seen == task.seen(), f"{seen}, but the model has {task}"
        if task.runs_once and task.id not in world.doubtful:
            assert world.runs[task.id] <= 1, "what may run once only ran twice"
    assert not [fence for fence, times in world.broker.fences.items() if times > 1], "a fence was published twice"


async def assert_verified(world: World) -> None:
    """What `tacoq verify` says of a moment is so at every moment."""
    reader = Reader(world.connection, 30.0, takes_nothing=False)
    for invariant in INVARIANTS:
        if invariant.name in OF_TASKS:
            found = await broken(reader, invariant, datetime.now(UTC) - timedelta(days=1))
            assert not found, f"{invariant.holds}: {found}"


def assert_counted(tasks: Iterable[Task], world: World) -> None:
    """The leader's count of what is released is that of Postgres."""
    counted = dict(world.manager.in_flight.flows(QUEUE))
    released = dict(Counter(task.spec.name for task in tasks if task.state in RELEASED))
    assert counted == released, f"the leader counts {counted}, and {released} are released"


def assert_nothing_stands_still(rows: Rows, tasks: Iterable[Task], world: World) -> None:
    """After dispatch has nothing more to do: no slot is free, or nothing that may run waits."""
    leader = world.manager
    if QUEUE in leader.dispatcher._held or leader.credit.used(QUEUE) > leader.sessions.capacity(QUEUE) - 1:
        return
    out = few_released(rows, tasks)
    for task in tasks:
        row = rows[task.id]
        may_run = task.state is TaskState.PENDING and _may_run(row, world)
        limited = row["kind"] == "few" and (out.total() >= FEW or out[row["fairness_key"]] > 0)
        assert not may_run or limited, f"it waits beside a free slot: {task}"


def assert_within_limits(rows: Rows, tasks: Collection[Task], world: World) -> None:
    """What was released just now had its slots, and its limits let it go."""
    slots = world.manager.sessions.capacity(QUEUE)
    assert sum(task.state in RELEASED and task.spec.name != "quick" for task in tasks) <= slots
    out = few_released(rows, tasks)
    assert out.total() <= FEW
    assert max(out.values(), default=0) <= 1


def few_released(rows: Rows, tasks: Iterable[Task]) -> Counter[str]:
    """Count what is released of the kind that is limited, by its keys."""
    return Counter(
        rows[task.id]["fairness_key"] for task in tasks if task.state in RELEASED and task.spec.name == "few"
    )


def assert_nobodys(task: Task, world: World, reports: Collection[Fence]) -> None:
    """Its release was freed: no session that lives has it, nor the broker, nor was a report of it on its way."""
    fence = Fence(task.id, task.release)
    fresh = {release.fence for message in world.broker.tasks if not message.redelivered for release in message.releases}
    assert fence not in reports, "its report was on its way"
    assert fence not in fresh, "its message was with the broker"
    assert all(session.silent for session in world.sessions if fence in session.held), "a session that lives has it"


def assert_order(rows: Rows, before: Collection[UUID], taken: Collection[UUID], world: World) -> None:
    """Of `before`, all that was pending, the claim took of each lane its head, and higher priorities first."""
    gone, left = _divided(rows, before, taken, world)
    assert len(gone) == len(taken), "what was taken may run, and was pending"
    for behind in gone:
        for ahead in left:
            if _lane(ahead) == _lane(behind):
                assert place(ahead) > place(behind), "it was overtaken in its own lane"
            before_it = (
                ahead["priority"] > behind["priority"] and ahead["kind"] != "few"
            )  # which its limits may hold back
            assert not before_it, f"{behind} went before {ahead}"


def assert_turns(rows: Rows, before: Collection[UUID], taken: Collection[UUID], world: World) -> None:
    """Of one priority kinds took turns, and of one kind its keys did: none that still waits got two less."""
    gone, left = _divided(rows, before, taken, world)
    keys = Counter(map(_lane, gone))
    kinds = Counter((row["priority"], row["kind"]) for row in gone if row["kind"] != "quick")
    for row in left:
        if row["kind"] in {"few", "quick"}:  # whose number is their limits' or their length's
            continue
        of_kind = [count for (priority, kind, _), count in keys.items() if (priority, kind) == _lane(row)[:2]]
        assert max(of_kind, default=0) <= keys[_lane(row)] + 1, "a key got more than its turn"
        of_all = [count for (priority, _), count in kinds.items() if priority == row["priority"]]
        assert max(of_all, default=0) <= kinds[_lane(row)[:2]] + 1, "a kind got more than its turn"


def assert_sent_in_order(sent: Iterable[asyncpg.Record]) -> None:
    """Each lane's tasks in the order in which they stood in it."""
    lanes: dict[tuple[int, str, str], list[asyncpg.Record]] = {}
    for row in sent:
        lanes.setdefault(_lane(row), []).append(row)
    for rows in lanes.values():
        assert rows == sorted(rows, key=place)


def place(row: asyncpg.Record) -> tuple[int, datetime, int]:
    """Where the task stands among all."""
    return (-row["priority"], row["run_at"], row["seq"])


def _lane(row: asyncpg.Record) -> tuple[int, str, str]:
    return (row["priority"], row["kind"], row["fairness_key"])


def _divided(
    rows: Rows, before: Collection[UUID], taken: Collection[UUID], world: World
) -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
    """Those that might have been taken: which were, and which were not."""
    might = [row for row in map(rows.__getitem__, before) if _may_run(row, world)]
    return [row for row in might if row["id"] in taken], [row for row in might if row["id"] not in taken]


def _may_run(row: asyncpg.Record, world: World) -> bool:
    in_time = row["expires_at"] is None or row["expires_at"] > datetime.now(UTC)
    one_of_many = row["crashes"] < LAST_CHANCE  # of the others one at a time is released
    return in_time and one_of_many and world.all_know(row["kind"])
