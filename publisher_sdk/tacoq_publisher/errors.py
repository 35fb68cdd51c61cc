"""An answer that is no success in, the error to raise out; and the errors that only this SDK has.

TacoqError
├── PublisherClosed               a publisher that is not open, or not here
└── ManagerError
    └── ManagerUnavailable
        └── PublishInterrupted    publish_many gave up in the middle: what is accepted, what may be
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tacoq_protocol.errors import ManagerError, ManagerUnavailable, TacoqError
from tacoq_protocol.http import Problem

if TYPE_CHECKING:
    from tacoq_publisher.handle import TaskHandle

_MOST_SHOWN = 200


class PublisherClosed(TacoqError):
    """The publisher is not open, or was closed meanwhile, or belongs to another event loop or process."""


class PublishInterrupted(ManagerUnavailable):
    """The manager was away for too long in the middle of a `publish_many`.

    `accepted`: handles of the first items of the iterable: durable. `unknown`: handles of the items after
    those: sent, and never answered; `await handle.view()` tells, once the manager is back. What follows them
    was not sent.
    """

    def __init__(
        self,
        message: str,
        *,
        accepted: Sequence[TaskHandle[Any]],
        unknown: Sequence[TaskHandle[Any]],
        status: int | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.accepted = accepted
        self.unknown = unknown


def read_problem(body: bytes) -> Problem | None:
    """Return the problem details in an answer; None when it holds none: then no manager wrote it."""
    try:
        return Problem.model_validate_json(body)
    except ValidationError:
        return None


def describe(problem: Problem) -> str:
    """Say in one line what the manager refused, and where in the task.

    Its words about the batch are left out: here the others are sent again, and places are the caller's.
    """
    detail = problem.detail.removeprefix(f"task {problem.index} of the batch: ")
    detail = detail.removesuffix("; nothing of the batch was accepted")
    return f"{detail} (at {problem.pointer})" if problem.pointer else detail


def unexpected(status: int, body: bytes, *, url: str, action: str) -> ManagerError:
    """Return the error for an answer to `action` that is neither success nor refusal of that thing."""
    problem = read_problem(body)
    said = describe(problem) if problem else shown(body)
    match status:
        case 401 | 403:
            advice = "set TACOQ_API_KEY (or api_key=) to a key that may do this"
        case 404 | 405:
            advice = "is that the address of a TacoQ manager, of this version? Set TACOQ_MANAGER_URL (or url=)"
        case status if 300 <= status < 400:
            advice = "redirects are not followed: set TACOQ_MANAGER_URL (or url=) to the final address"
        case _:
            advice = "see the manager's log"
    return ManagerError(f"the manager at {url} answered {status} to {action}: {said}: {advice}", status=status)


def malformed(status: int, body: bytes, *, url: str, action: str, reason: object) -> ManagerError:
    """Return the error for a success whose body is not what it should be."""
    return ManagerError(
        f"the manager at {url} answered {status} to {action}, "
        f"but not in a way this version reads ({reason}): {shown(body)}: "
        "is something else listening there, or is it of another version?",
        status=status,
    )


def own_copy(error: Exception) -> Exception:
    """Return a copy of an error for one of several waiters: each raise adds to a traceback."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own


def shown(body: bytes) -> str:
    """Return the start of a body, on one line, for a message."""
    text = " ".join(body[: 4 * _MOST_SHOWN].decode(errors="replace").split())
    return repr(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…")
