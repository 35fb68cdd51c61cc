"""The machine: rules that may follow each other in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg
import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tacoq_manager.settings import Settings
from tacoq_protocol.http import NewTask
from tacoq_protocol.ids import new_task_id
from tests.machine.play import MOST, Play
from tests.machine.played import QUEUE, Fate

T = TypeVar("T")

numbers = st.integers(0, 10_000)  # which of those there are
fates = st.sampled_from([*[Fate.CONFIRMED] * 8, *Fate])
outcomes = st.sampled_from(["completed", "failed", "failed", "hopeless", "snoozed", "returned", "expired"])
settled = st.sampled_from([[], [True], [True], [False, True]])  # each time whether it is acked


class Machine(RuleBasedStateMachine):
    """Few rules that do much: Hypothesis leaves some of them out of each example, and most need what others did."""

    runner: asyncio.Runner
    settings: Settings
    connection: asyncpg.Connection[asyncpg.Record]

    def __init__(self) -> None:
        super().__init__()
        self.failed = False
        self.play = Play(self.settings, self.connection)
        self.do(self.play.begin())

    def do(self, step: Coroutine[Any, Any, object]) -> None:
        """Take a step, and see after it that all is well."""

        async def take() -> None:
            await step
            await self.play.world.errands()
            await self.play.check()

        self.failed = True
        self.runner.run(take())
        self.failed = False

    def teardown(self) -> None:
        if not self.failed:
            self.do(self.play.drain())

    @initialize(keys=st.lists(st.sampled_from(["", "x"]), min_size=1, max_size=5), kind=st.sampled_from(["a", "once"]))
    def begin(self, keys: list[str], kind: str) -> None:
        self.do(self.play.publish([_task(kind, key) for key in keys], Fate.CONFIRMED, directly=False))

    @precondition(lambda self: len(self.play.tasks) < MOST)
    @rule(
        kind=st.sampled_from(["a", "b", "once", "few", "quick", "new"]),
        keys=st.lists(st.sampled_from(["", "x", "y"]), min_size=1, max_size=5),
        priority=st.sampled_from([0, 0, 0, 5]),
        delay=st.sampled_from([None, None, None, 600.0]),
        expires_in=st.sampled_from([None, None, None, 3600.0]),
        max_attempts=st.sampled_from([None, None, None, 1, 4]),
        fate=fates,
        directly=st.booleans(),
    )
    def publish(self, kind: str, keys: list[str], fate: Fate, directly: bool, **options: Any) -> None:
        """Tasks of one kind; a round of dispatch follows when they are not to be released as they are accepted."""
        self.do(self.play.publish([_task(kind, key, **options) for key in keys], fate, directly=directly))
        if not directly:
            self.dispatch(fate, delivered=fate is Fate.CONFIRMED)

    @precondition(lambda self: self.play.tasks)
    @rule(which=numbers, same=st.booleans())
    def publish_again(self, which: int, same: bool) -> None:
        self.do(self.play.publish_again(_pick(list(self.play.tasks), which), same=same))

    @precondition(lambda self: self.play.tasks)
    @rule(which=numbers)
    def cancel(self, which: int) -> None:
        self.do(self.play.cancel(_pick(list(self.play.tasks.values()), which)))

    @rule(fate=fates, delivered=st.booleans())
    def dispatch(self, fate: Fate, delivered: bool) -> None:
        self.do(self.play.dispatch(fate))
        if delivered:
            self.do(self.play.deliver_all())

    @rule(far=st.booleans())
    def time_passes(self, far: bool) -> None:
        self.do(self.play.time_passes(far=far))

    @rule(
        event=st.sampled_from(["all", "recount", "rescue", "rescue", "takeover", "former", "pause", "resume"]),
        which=numbers,
    )
    def leader(self, event: str, which: int) -> None:
        former = self.play.world.managers[:-1]
        match event:
            case "all":
                self.do(self.play.dispatch_all())
            case "recount":
                self.do(self.play.recount())
            case "rescue" if not self.play.unanswered:  # a lease is long, and the next round of dispatch is near
                self.do(self.play.watched(self.play.world.rescue()))
            case "takeover":
                self.do(self.play.take_over())
            case "former" if former:
                self.do(self.play.former_leader_goes_on(_pick(former, which)))
            case "pause":
                self.do(self.play.pause(_pick(self.play.world.managers, which)))
            case "resume":
                self.do(self.play.resume(_pick(self.play.world.managers, which)))

    @rule(
        event=st.sampled_from(["join", "kill", "die unnoticed", "silence", "wake", "wake", "reset"]),
        which=numbers,
        slots=st.integers(1, 3),
        all_kinds=st.booleans(),
    )
    def worker(self, event: str, which: int, slots: int, all_kinds: bool) -> None:
        play, sessions = self.play, self.play.world.sessions
        if event == "join" and len(sessions) < 4:
            self.do(play.join(slots, all_kinds=all_kinds))
        if not sessions:
            return
        session = _pick(sessions, which)
        match event:
            case "kill":
                self.do(play.watched(play.world.kill(session, told=True)))
            case "die unnoticed":
                self.do(play.watched(play.world.kill(session, told=False)))
            case "silence" if not session.silent:
                self.do(play.watched(play.world.silence(session)))
            case "wake" if session.silent:
                self.do(play.wake(session))
            case "reset":
                play.world.reset(session)

    @precondition(lambda self: self.play.world.broker.tasks and self.play.live())
    @rule(which=numbers)
    def deliver(self, which: int) -> None:
        """One message, to any of the sessions."""
        self.do(self.play.deliver(_pick(self.play.live(), which)))

    @rule(steps=st.lists(st.tuples(numbers, st.booleans(), st.none() | outcomes), min_size=1, max_size=5), told=settled)
    def work(self, steps: list[tuple[int, bool, str | None]], told: list[bool]) -> None:
        """Runs begin, with their starts told or not, go on or end. Those of a silent session may end, too, late."""
        if not any(session.held for session in self.play.world.sessions):
            self.do(self.play.hire())
            self.do(self.play.dispatch_all())
            self.do(self.play.deliver_all())
        self.do(self.play.work(steps))
        self.do(self.play.settle_all(told))

    @precondition(lambda self: self.play.world.broker.reports)
    @rule(which=st.lists(numbers, min_size=1, max_size=6), acked=st.sampled_from([True, True, True, False]))
    def settle(self, which: list[int], acked: bool) -> None:
        """In any order: there are several managers, and a connection that is lost brings them again."""
        self.do(self.play.settle(which, acked=acked))


def _task(kind: str, key: str, **options: Any) -> NewTask:
    payload = msgspec.Raw(b"1")
    return NewTask(id=new_task_id(), kind=kind, payload=payload, queue=QUEUE, fairness_key=key, **options)


def _pick(things: Sequence[T], which: int) -> T:
    return things[which % len(things)]
