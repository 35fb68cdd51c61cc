"""Findings: a look in; what it tells, how bad that is and what to do out. A look that fails is one, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

import msgspec

from tacoq_protocol.errors import TacoqError

LOOK_SECONDS: Final = 15.0  # for all that is asked of one service


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # all goes on, and somebody should act
    PROBLEM = "problem"  # something does not work, or a promise does not hold


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `do` says what mends it, and is None of what is ok."""

    check: str
    level: Level
    says: str
    do: str | None = None


def ok(check: str, says: str) -> Finding:
    return Finding(check, Level.OK, says)


def warning(check: str, says: str, do: str) -> Finding:
    return Finding(check, Level.WARNING, says, do)


def problem(check: str, says: str, do: str) -> Finding:
    return Finding(check, Level.PROBLEM, says, do)


Look = Callable[[list[Finding]], Awaitable[None]]


async def looked(check: str, look: Look, *, do: str, seconds: float = LOOK_SECONDS) -> list[Finding]:
    """Return what `look` adds to the list that it is given.

    When it raises, or is not done after `seconds`, what it has found until then, and `check` as a problem with `do`.
    """
    found: list[Finding] = []
    try:
        async with asyncio.timeout(seconds):
            await look(found)
    except TimeoutError:
        found.append(problem(check, f"there was no answer within {seconds:g} s", do))
    except (TacoqError, OSError) as error:
        found.append(problem(check, str(error) or type(error).__name__, do))
    except Exception as error:  # of a driver: its words may repeat an address with its password
        found.append(problem(check, f"it cannot be looked at: {type(error).__name__}", do))
    return found
