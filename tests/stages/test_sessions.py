"""Sessions: who lives, with what; and leases that run only while presence works."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from tacoq_manager.sessions import BEAT_SECONDS, GAP_SECONDS, LEASE_SECONDS, REMEMBERED, Heard, Sessions
from tacoq_protocol.messages import Fence, Heartbeat, KindSpec, Register

A, B, C = (UUID(int=number) for number in (1, 2, 3))
STARTED = datetime(2030, 1, 1, tzinfo=UTC)


def register(
    session: UUID = A, *, queue: str = "default", kinds: Sequence[str | KindSpec] = ("add",), slots: int = 4
) -> Register:
    specs = [spec if isinstance(spec, KindSpec) else KindSpec(spec) for spec in kinds]
    return Register(session, queue, slots, specs, "+".join(spec.name for spec in specs), "host", 7, "0.1", STARTED)


def beat(
    session: UUID = A,
    *,
    queue: str = "default",
    slots: int = 4,
    kinds_hash: str = "add",
    draining: bool = False,
    running: Sequence[Fence] = (),
) -> Heartbeat:
    return Heartbeat(session, queue, slots, 1, list(running), kinds_hash, "0.1", draining)


def steady(sessions: Sessions, since: float, until: float) -> None:
    """Own beats, every BEAT_SECONDS, with a tick after each."""
    now = since
    while now <= until:
        sessions.own_beat(now)
        now += BEAT_SECONDS


# Who lives.


def test_a_registered_session_serves_its_queue() -> None:
    sessions = Sessions()
    assert sessions.register(register(), 0.0) == Heard(joined=True, changed=True)
    assert sessions.is_live(A)
    assert [state.session for state in sessions.live("default")] == [A]
    assert sessions.live("other") == []
    assert sessions.queues() == {"default"}
    assert sessions.slots("default") == 4
    assert sessions.known_by_all("default", "add")


def test_a_beat_of_an_unknown_session_counts_and_asks_for_its_introduction() -> None:
    sessions = Sessions()
    assert sessions.heartbeat(beat(), 0.0) == Heard(introduce=True, joined=True, changed=True)
    assert sessions.is_live(A)
    assert sessions.slots("default") == 4
    assert not sessions.known_by_all("default", "add")
    assert sessions.lacking("default", "add") == (A,)
    assert sessions.heartbeat(beat(), 2.0).introduce
    sessions.register(register(), 2.1)
    assert sessions.heartbeat(beat(), 4.0) == Heard()


def test_a_beat_with_other_kinds_asks_for_an_introduction() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    assert sessions.heartbeat(beat(kinds_hash="other"), 2.0) == Heard(introduce=True)


def test_beats_change_what_a_session_tells_of_itself() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    fence = Fence(uuid4(), 3)
    assert sessions.heartbeat(beat(slots=9, running=[fence]), 2.0) == Heard(changed=True)
    (state,) = sessions.live()
    assert (state.slots, state.held, state.running, state.last_seen) == (9, 1, frozenset({fence}), 2.0)
    assert sessions.slots("default") == 9


def test_a_second_introduction_keeps_what_only_beats_tell() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    sessions.heartbeat(beat(draining=True), 2.0)
    assert sessions.register(register(kinds=["add", "sub"]), 3.0) == Heard(changed=True)
    (state,) = sessions.live()
    assert state.draining
    assert state.held == 1
    assert set(state.kinds) == {"add", "sub"}


def test_a_draining_session_lives_but_takes_nothing() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    assert sessions.heartbeat(beat(draining=True), 2.0) == Heard(changed=True)
    assert sessions.is_live(A)
    assert sessions.slots("default") == 0
    assert not sessions.known_by_all("default", "add")
    assert sessions.lacking("default", "sub") == ()


def test_a_session_that_left_is_gone_for_good() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    state = sessions.leave(A)
    assert state is not None
    assert state.session == A
    assert sessions.leave(A) is None
    assert sessions.heartbeat(beat(), 1.0) == Heard()
    assert sessions.register(register(), 1.0) == Heard()
    assert not sessions.is_live(A)
    assert sessions.slots("default") == 0


def test_a_session_whose_process_died_is_gone_for_good_even_when_a_late_beat_arrives() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    assert sessions.lost(A) is not None
    assert sessions.heartbeat(beat(), 0.1) == Heard()
    assert not sessions.is_live(A)
    assert sessions.lost(B) is None
    assert sessions.heartbeat(beat(B), 0.1) == Heard()


def test_ended_sessions_are_not_remembered_for_ever() -> None:
    sessions = Sessions()
    for _ in range(REMEMBERED + 10):
        sessions.leave(uuid4())
    assert len(sessions._ended) == REMEMBERED


# Kinds.


def test_a_kind_is_released_only_when_every_session_of_the_queue_knows_it() -> None:
    sessions = Sessions()
    assert not sessions.known_by_all("default", "add")
    sessions.register(register(A, kinds=["add", "sub"]), 0.0)
    sessions.register(register(B, kinds=["add"]), 0.0)
    sessions.register(register(C, queue="other", kinds=["mul"]), 0.0)
    assert sessions.known_by_all("default", "add")
    assert not sessions.known_by_all("default", "sub")
    assert sessions.lacking("default", "sub") == (B,)
    sessions.leave(B)
    assert sessions.known_by_all("default", "sub")


def test_the_latest_registration_gives_the_policy() -> None:
    sessions = Sessions()
    sessions.seed({("default", "add"): KindSpec("add", max_attempts=1), ("default", "old"): KindSpec("old")})
    assert sessions.spec("default", "add") == KindSpec("add", max_attempts=1)
    sessions.register(register(kinds=[KindSpec("add", max_attempts=5)]), 0.0)
    assert sessions.spec("default", "add") == KindSpec("add", max_attempts=5)
    sessions.seed({("default", "add"): KindSpec("add", max_attempts=1)})
    assert sessions.spec("default", "add") == KindSpec("add", max_attempts=5)
    assert sessions.spec("default", "old") == KindSpec("old")
    assert sessions.spec("other", "add") is None


def test_the_queue_of_a_kind_is_that_of_its_live_sessions_else_that_where_it_was_known() -> None:
    sessions = Sessions()
    assert sessions.queue_of_kind("add") is None
    sessions.seed({("old", "add"): KindSpec("add")})
    assert sessions.queue_of_kind("add") == "old"
    sessions.register(register(A, queue="new"), 0.0)
    assert sessions.queue_of_kind("add") == "new"
    sessions.register(register(B, queue="third"), 0.0)
    assert sessions.queue_of_kind("add") is None
    sessions.leave(A)
    assert sessions.queue_of_kind("add") == "third"


# Leases.


def test_a_silent_session_is_lost_when_its_lease_runs_out() -> None:
    sessions = Sessions()
    sessions.own_beat(0.0)
    sessions.register(register(), 1.0)
    steady(sessions, 2.0, 10.0)
    assert sessions.tick(11.0) == []
    assert sessions.is_live(A)
    (state,) = sessions.tick(11.1)
    assert state.session == A
    assert not sessions.is_live(A)
    assert sessions.tick(11.2) == []


def test_beats_renew_the_lease() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    for now in range(0, 100, 2):
        sessions.own_beat(now)
        sessions.heartbeat(beat(), now)
        assert sessions.tick(now + 1) == []


def test_without_own_beats_nobody_is_lost() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    assert sessions.tick(1_000.0) == []
    assert sessions.steady_since is None
    assert sessions.is_live(A)


def test_after_a_gap_everybody_has_a_full_lease_from_the_first_own_beat() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    steady(sessions, 0.0, 4.0)
    resumed = 4.0 + GAP_SECONDS + 0.1  # nobody ticked in between: a frozen process
    steady(sessions, resumed, resumed + LEASE_SECONDS)
    assert sessions.steady_since == resumed
    assert sessions.tick(resumed + LEASE_SECONDS) == []
    assert len(sessions.tick(resumed + LEASE_SECONDS + 0.1)) == 1


def test_a_tick_in_a_gap_ends_the_steadiness() -> None:
    sessions = Sessions()
    steady(sessions, 0.0, 4.0)
    assert sessions.tick(4.0 + GAP_SECONDS) == []
    assert sessions.steady_since == 0.0
    assert sessions.tick(4.1 + GAP_SECONDS) == []
    assert sessions.steady_since is None


def test_an_interruption_that_is_known_of_restarts_leases_however_short() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    steady(sessions, 0.0, 8.0)
    sessions.interrupt()
    assert sessions.steady_since is None
    sessions.own_beat(9.0)
    assert sessions.tick(10.5) == []
    assert sessions.steady_since == 9.0


def test_a_lost_session_that_beats_again_lives_again_with_a_full_lease_and_its_kinds() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    steady(sessions, 0.0, 12.0)
    assert len(sessions.tick(12.0)) == 1
    assert sessions.heartbeat(beat(), 12.5) == Heard(introduce=True, joined=True, changed=True)
    assert sessions.known_by_all("default", "add")
    steady(sessions, 14.0, 22.0)
    assert sessions.tick(22.4) == []
    assert len(sessions.tick(22.6)) == 1


def test_a_lost_session_that_introduces_itself_again_lives_again() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    steady(sessions, 0.0, 12.0)
    sessions.tick(12.0)
    assert sessions.register(register(), 13.0) == Heard(joined=True, changed=True)
    assert sessions.is_live(A)


def test_a_lease_past_its_expiry_shows_when_nobody_ticks() -> None:
    sessions = Sessions()
    sessions.register(register(), 0.0)
    steady(sessions, 0.0, 14.0)
    assert sessions.past_expiry(LEASE_SECONDS + 1.0) == 0
    assert sessions.past_expiry(LEASE_SECONDS + BEAT_SECONDS + 0.1) == 1
    sessions.tick(14.0)
    assert sessions.past_expiry(14.0) == 0


def test_other_managers_are_seen_for_a_lease() -> None:
    sessions = Sessions()
    assert not sessions.other_managers(0.0)
    sessions.manager_beat(B, 0.0)
    assert sessions.other_managers(LEASE_SECONDS)
    assert not sessions.other_managers(LEASE_SECONDS + 0.1)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["own", "own", "own", "beat", "register", "tick", "tick", "interrupt"]),
        st.sampled_from([A, B]),
        st.floats(min_value=0.0, max_value=6.0),
    ),
    max_size=80,
)


@given(EVENTS)
def test_no_session_is_lost_unless_own_beats_were_heard_during_the_whole_lease(
    events: list[tuple[str, UUID, float]],
) -> None:
    """Whatever happens: at a loss, own beats without a gap or an interruption reach back at least one lease."""
    sessions = Sessions()
    now = 0.0
    own: list[float] = []  # since the last known interruption
    seen: dict[UUID, float] = {}
    for what, session, passed in events:
        now += passed
        match what:
            case "own":
                own.append(now)
                sessions.own_beat(now)
            case "beat":
                seen[session] = now
                sessions.heartbeat(beat(session), now)
            case "register":
                seen[session] = now
                sessions.register(register(session), now)
            case "interrupt":
                own.clear()
                sessions.interrupt()
            case _:
                for lost in sessions.tick(now):
                    assert now - seen[lost.session] > LEASE_SECONDS
                    assert covered(own, now - LEASE_SECONDS, now)
    for session in (A, B):
        if session in seen and now - seen[session] <= LEASE_SECONDS:
            assert sessions.is_live(session)


def covered(own: list[float], since: float, until: float) -> bool:
    """True when own beats lie so densely from `since` to `until` that there is no gap."""
    inside = [at for at in own if at <= until]
    reach = until
    for at in reversed(inside):
        if reach - at > GAP_SECONDS:
            return False
        reach = at
        if at <= since:
            return True
    return False


@given(st.lists(st.floats(min_value=0.1, max_value=3.9), min_size=4, max_size=40))
def test_a_silent_session_is_lost_in_time_however_unevenly_own_beats_come(pauses: list[float]) -> None:
    sessions = Sessions()
    sessions.own_beat(0.0)
    sessions.register(register(), 0.0)
    now = 0.0
    for pause in pauses:
        now += pause
        sessions.own_beat(now)
        sessions.tick(now)
    assert sessions.is_live(A) == (now <= LEASE_SECONDS)
