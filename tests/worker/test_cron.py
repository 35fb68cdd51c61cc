"""@worker.cron: a schedule for a handler, and what it refuses at decoration."""

from __future__ import annotations

from typing import Any, assert_type

import pytest

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.cron import Cron, MissedPolicy
from tacoq_protocol.errors import ConfigurationError
from tacoq_worker import Context, Worker


def test_a_function_becomes_a_handler_with_a_schedule() -> None:
    worker = Worker("reports")

    @worker.cron("0 3 * * *", timezone="Europe/Lisbon", missed="run_all")
    def nightly() -> str:
        return "done"

    assert nightly() == "done"
    (spec,) = worker.registry.specs()
    assert (spec.name, spec.cron) == ("nightly", Cron("0 3 * * *", "Europe/Lisbon", MissedPolicy.RUN_ALL))


def test_by_default_it_goes_by_utc_and_makes_up_once_for_what_was_missed() -> None:
    worker = Worker()

    @worker.cron("*/5 * * * *")
    async def often() -> None: ...

    assert often.spec.cron == Cron("*/5 * * * *", "UTC", MissedPolicy.RUN_ONCE)


def test_above_a_task_it_keeps_the_options() -> None:
    worker = Worker()

    @worker.cron("0 3 * * *")
    @worker.task("reports.nightly", timeout="10m", max_attempts=5)
    async def nightly(ctx: Context, day: str | None = None) -> int:
        return 1

    (spec,) = worker.registry.specs()
    assert (spec.name, spec.timeout, spec.max_attempts) == ("reports.nightly", 600.0, 5)
    assert spec.cron == Cron("0 3 * * *")
    assert nightly.task(day="monday").payload == b'{"day":"monday"}'


def test_another_expression_is_another_registration() -> None:
    """So that a manager that knows the old one asks for it."""

    def registered(expression: str) -> str:
        worker = Worker()
        worker.cron(expression)(_nothing)
        return worker.registry.hash()

    assert registered("0 3 * * *") == registered("0 3 * * *") != registered("0 4 * * *")


def _nothing() -> None: ...


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (["61 * * * *"], {}, ["'61 * * * *'", "bad minute", "'0 3 * * *'"]),
        (["@daily"], {}, ["'@daily'", "wrong number of fields"]),
        (["0 0 30 2 *"], {}, ["bad day-of-month"]),
        ([3], {}, ["cron(3)", "give a cron expression"]),
        (["0 3 * * *"], {"timezone": "Lisbon"}, ["'Lisbon'", "IANA", "Europe/Lisbon"]),
        (["0 3 * * *"], {"timezone": None}, ["timezone = None"]),
        (["0 3 * * *"], {"missed": "never"}, ["missed = 'never'", "run_once"]),
        (["0 3 * * *"], {"missed": None}, ["missed = None"]),
        (["0 3 * * *"], {"time_zone": "UTC"}, ["no option 'time_zone'", "timezone, missed"]),
    ],
)
def test_what_is_wrong_is_refused_at_decoration(
    arguments: list[Any], options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Worker().cron(*arguments, **options)
    assert [word for word in words if word not in str(refused.value)] == []


def test_without_parentheses_it_says_what_to_give() -> None:
    with pytest.raises(ConfigurationError, match="give a cron expression"):
        Worker().cron(_nothing)  # type: ignore[arg-type]


def test_a_handler_that_needs_a_payload_is_refused() -> None:
    def mail(to: str) -> None: ...

    with pytest.raises(ConfigurationError, match=r"'mail' needs a payload.*defaults"):
        Worker().cron("0 3 * * *")(mail)


def test_a_second_schedule_for_a_handler_is_refused() -> None:
    worker = Worker()
    handler = worker.cron("0 3 * * *")(_nothing)
    with pytest.raises(ConfigurationError, match="has a schedule already"):
        worker.cron("0 4 * * *")(handler)


def test_a_handler_of_another_worker_is_refused() -> None:
    handler = Worker("other").task(_nothing)
    with pytest.raises(ConfigurationError, match="another Worker"):
        Worker().cron("0 3 * * *")(handler)


typed = Worker("typed")


@typed.cron("0 3 * * *")
def plain() -> str:
    return ""


@typed.cron("0 3 * * *")
async def with_context(ctx: Context) -> int:
    return ctx.attempt


@typed.cron("0 3 * * *")
@typed.task("stacked", timeout="1m")
def stacked(x: int = 1) -> str:
    return str(x)


def test_types_stay() -> None:
    assert_type(plain(), str)
    assert_type(plain.task(), TaskCall[str])
    assert_type(with_context.task(), TaskCall[int])
    assert_type(stacked.task(2), TaskCall[str])
