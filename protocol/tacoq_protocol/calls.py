"""A call that was not made yet: kind, payload and return type, as `handler.task(…)` gives it to a publisher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct

R_co = TypeVar("R_co", covariant=True)


class TaskCall(Struct, Generic[R_co], frozen=True):
    """One call of a handler, ready to publish.

    `payload` is JSON; `decode` turns the result's JSON into the handler's return type and raises pydantic's
    ValidationError (msgspec's, for a struct) when it does not fit.
    """

    kind: str
    queue: str
    payload: bytes
    decode: Callable[[bytes], R_co]
