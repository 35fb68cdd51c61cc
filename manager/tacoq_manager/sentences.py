"""Sentences: a task and what was found to hold it in; one sentence that names names and says what to do out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

from tacoq_manager.limits import Brake, Limit
from tacoq_protocol.broker import LinkState
from tacoq_protocol.durations import in_words
from tacoq_protocol.http import TaskView
from tacoq_protocol.rates import Rate
from tacoq_protocol.why import MOST_AHEAD, Reason

MOST_NAMED = 5  # sessions in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What holds a task, or became of it. The first fields are those of `Why`, the others for its sentence alone."""

    reason: Reason
    since: datetime | None = None
    until: datetime | None = None
    max_attempts: int | None = None
    error: str | None = None
    sessions: Sequence[UUID] = ()
    host: str | None = None
    pid: int | None = None
    slots: int | None = None
    released: int | None = None
    position: int | None = None
    more: bool = False
    brake: Brake | None = None
    link: LinkState | None = None
    leads: bool = True  # the manager that was asked
    live: int = 0  # sessions of the queue
    known: Sequence[str] = ()  # kinds that they know
    elsewhere: Sequence[str] = ()  # other queues whose workers know the kind
    just_listens: bool = False  # live sessions may not have been heard yet
    lost: bool = False  # the session is
    old: bool = False  # released for longer than a message needs
    own_key: int = 0  # tasks of its fairness key before it
    other: UUID | None = None  # the task that is waited for

    @property
    def limit(self) -> str | None:
        """The name of the limit, as it is set."""
        if self.brake is None or self.brake.limit not in (Limit.CONCURRENCY, Limit.RATE):
            return None
        of_key = self.brake.of.fairness_key is not None
        if self.brake.limit is Limit.RATE:
            return "rate_per_key" if of_key else "rate"
        return "max_per_key" if of_key else "concurrency"

    @property
    def limit_of(self) -> str | None:
        if self.brake is None:
            return None
        of = self.brake.of
        return "queue" if of.kind is None else "kind" if of.fairness_key is None else "fairness_key"

    @property
    def most(self) -> int | str | None:
        most = None if self.brake is None else self.brake.most
        return most.text if isinstance(most, Rate) else most


def sentence(task: TaskView, found: Found, now: datetime) -> str:
    """Say why the task is where it is, and what to do where somebody has to."""
    match found.reason:
        case Reason.NOT_DUE:
            return f"it is not due: its time is {_when(found.until, now)}"
        case Reason.RETRY_WAIT:
            most = f" of {found.max_attempts}" if found.max_attempts else ""
            failed = f"attempt {task.attempt}{most} failed {_when(found.since, now)}: {found.error}"
            return f"{failed}; the next is due {_when(found.until, now)}"
        case Reason.SNOOZED:
            return f"its handler asked {_when(found.since, now)} to be run again {_when(found.until, now)}"
        case Reason.NO_LEADER:
            return (
                "no manager leads, so nothing is released: one that reaches Postgres takes the lead within seconds; "
                "if this stays, see the managers' logs"
            )
        case Reason.BROKER_AWAY:
            return _of_broker(task, found)
        case Reason.PAUSED | Reason.HELD_BACK | Reason.AT_LIMIT | Reason.AT_RATE:
            assert found.brake is not None, "a limit has its brake"
            return _of_limit(task, found, found.brake, now)
        case Reason.NO_WORKERS | Reason.DRAINING | Reason.UNKNOWN_KIND:
            return _of_workers(task, found)
        case Reason.LAST_CHANCE:
            return (
                f"its workers died with it {task.attempt} times, so it is released when no other such task is out: "
                f"{found.other} is"
            )
        case Reason.RECOVERING:
            return f"the leader looks for lost tasks of queue {task.queue!r} before it releases more, for seconds"
        case Reason.NO_SLOT:
            return f"{_full(task, found)}: {_place(found)}"
        case Reason.BEHIND_KEY:
            key = (
                f"fairness key {task.fairness_key!r} has {_count(found.own_key)} before it and takes turns with others"
            )
            return f"{_full(task, found)}, and its {key}: {_place(found)}"
        case Reason.RELEASING:
            return f"nothing holds it: a worker of queue {task.queue!r} gets it with the next round"
        case Reason.QUEUED | Reason.RUNNING | Reason.CANCEL_REQUESTED:
            return _of_release(task, found, now)
        case Reason.COMPLETED | Reason.FAILED | Reason.CANCELLED | Reason.EXPIRED:
            return _of_end(task, found, now)
        case _:
            assert_never(found.reason)


def _of_broker(task: TaskView, found: Found) -> str:
    advice = "see that it runs, and TACOQ_BROKER_URL"
    if found.link is LinkState.OPEN:
        return f"RabbitMQ did not take what was last released to queue {task.queue!r}; it is tried again: {advice}"
    trouble = (
        "takes nothing, for it is short of memory or disk" if found.link is LinkState.BLOCKED else "is not reached"
    )
    if not found.leads:
        return f"RabbitMQ {trouble} by this manager, which does not lead and so cannot tell more: {advice}"
    return f"RabbitMQ {trouble}, so nothing is released: {advice}"


def _of_workers(task: TaskView, found: Found) -> str:
    queue = f"queue {task.queue!r}"
    if found.reason is Reason.DRAINING:
        return (
            f"every live worker of {queue} was drained ({_named(found.sessions)}): "
            f"`tacoq workers resume --queue {task.queue}`, or start another"
        )
    elsewhere = f"; kind {task.kind!r} is served in queue {', '.join(map(repr, found.elsewhere))}"
    elsewhere = elsewhere if found.elsewhere else ""
    if found.reason is Reason.NO_WORKERS:
        start = f"start one of a Worker(queue={task.queue!r}) that knows kind {task.kind!r}"
        note = "; this manager began to listen for workers a moment ago" if found.just_listens else ""
        return f"no live worker serves {queue}: {start}{elsewhere}{note}"
    if len(found.sessions) < found.live:
        lacking = f"{len(found.sessions)} of the {found.live} live workers of {queue} do not know kind {task.kind!r}"
        return f"{lacking}: restart {_named(found.sessions)} with code that has it, or drain them"
    known = ", ".join(map(repr, found.known[:MOST_NAMED])) + (", …" if len(found.known) > MOST_NAMED else "")
    known = f", but {known}" if known else ""
    return f"no live worker of {queue} knows kind {task.kind!r}{known}: start one whose code has it{elsewhere}"


def _of_limit(task: TaskView, found: Found, brake: Brake, now: datetime) -> str:
    what = f"queue {task.queue!r}" if brake.of.kind is None else f"kind {task.kind!r}"
    if brake.of.fairness_key is not None:
        what = f"fairness key {task.fairness_key!r} of {what}"
    change = f"tacoq queues limit {task.queue}" if brake.of.kind is None else f"tacoq kinds limit {task.kind}"
    match brake.limit:
        case Limit.PAUSED:
            return f"{what} is paused: `tacoq queues resume {task.queue}`"
        case Limit.HELD_BACK:
            ends = f"{what} is held back until {_when(found.until, now)}"
            return f"{ends}: a handler was rate limited; `tacoq kinds resume {task.kind}` ends it"
        case Limit.CONCURRENCY:
            reached = f"{what} is at its limit, {brake.at} of {found.most} tasks at once"
            return f"{reached}: {_place(found)}; `{change}` changes it"
        case Limit.RATE:
            following = f", the next goes {_when(found.until, now)}" if found.until else ""
            reached = f"{what} is at its rate of {found.most}{following}"
            return f"{reached}: {_place(found)}; `{change}` changes it"
        case _:
            assert_never(brake.limit)


def _of_release(task: TaskView, found: Found, now: datetime) -> str:
    where = f"in session {_named(found.sessions)}" + (f" (host {found.host}, pid {found.pid})" if found.host else "")
    if found.lost:
        where += ", which is lost: what it held is freed in a moment"
    if found.reason is Reason.RUNNING:
        return f"it runs since {_when(found.since, now)} {where}"
    if found.reason is Reason.CANCEL_REQUESTED:
        begun = f"it runs {where}" if found.sessions else f"it was released {_when(found.since, now)}"
        return f"{begun}; its workers were asked to stop it, and unless it completes first it ends as cancelled"
    released = f"it was released {_when(found.since, now)}, and no worker has reported its start"
    if not found.live:
        return f"{released}: queue {task.queue!r} has no live worker, so it is taken back within seconds"
    return f"{released}: were it lost, that is noticed and it is released again" if found.old else released


def _of_end(task: TaskView, found: Found, now: datetime) -> str:
    ended = f"it {'was ' if task.state.value == 'cancelled' else ''}{task.state} {_when(found.since, now)}"
    if found.reason is Reason.COMPLETED:
        return ended
    if found.reason is not Reason.FAILED:
        return f"{ended}: {found.error}" if found.error else ended
    used_up = found.max_attempts is not None and task.attempt >= found.max_attempts
    cause = f"its attempts ({task.attempt}) are used up" if used_up else "this is not retried"
    return f"{ended}: {found.error}; {cause}; `tacoq retry {task.id}` publishes it once more"


def _full(task: TaskView, found: Found) -> str:
    return f"no slot of queue {task.queue!r} is free ({found.slots} slots, {found.released} tasks released)"


def _place(found: Found) -> str:
    return f"over {MOST_AHEAD:,} tasks are before it" if found.more else f"it is number {found.position:,} in line"


def _count(count: int) -> str:
    return f"{count:,}" if count <= MOST_AHEAD else f"over {MOST_AHEAD:,}"


def _named(sessions: Sequence[UUID]) -> str:
    more = f" and {len(sessions) - MOST_NAMED} more" if len(sessions) > MOST_NAMED else ""
    return ", ".join(str(session) for session in sessions[:MOST_NAMED]) + more


def _when(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "at a time that is not on record"
    seconds = (now - moment).total_seconds()
    distance = f"{in_words(seconds)} ago" if seconds >= 0 else f"in {in_words(-seconds)}"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({distance})"
