"""Payloads at the door: a kind's payload in, what is wrong with it by the JSON Schema of its workers out.

Where workers of several versions are live a payload has to fit one of them. A kind that nobody registered takes all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import jsonschema_rs
import msgspec

from tacoq_manager.sessions import Sessions

log = logging.getLogger("tacoq.accept")

SHOWN_PROBLEMS: Final = 5

_read = msgspec.json.decode


class PayloadCheck:
    """Knows the schemas that sessions registered."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def problem(self, queue: str, kind: str, payload: bytes) -> str | None:
        """Say where a payload does not fit, as in `$.mail.to[0]: value is not of type "string"`; None when it does.

        What was sent is not repeated: errors end in logs.
        """
        validators = [_validator(schema) for schema in self._sessions.payload_schemas(queue, kind)]
        if not validators:
            return None
        try:
            value = _read(payload)
        except msgspec.DecodeError as error:  # JSON, with a number that no double holds
            return str(error)
        except RecursionError:
            return "it is nested too deep to be read"
        problem = None
        for validator in validators:
            try:
                if validator is None or validator.is_valid(value):
                    return None
                problem = problem or _problem(validator, value)
            except ValueError:  # it reads less deep than JSON was read
                return "it is nested too deep to be checked"
        return problem


def _problem(validator: jsonschema_rs.Validator, value: object) -> str:
    found = [f"{_path(error.instance_path)}: {error.message}" for error in validator.iter_errors(value)]
    more = [f"and {len(found) - SHOWN_PROBLEMS} more"] if len(found) > SHOWN_PROBLEMS else []
    return "; ".join([*found[:SHOWN_PROBLEMS], *more])


def _path(places: Sequence[str | int]) -> str:
    return "$" + "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)


@lru_cache(maxsize=10_000)
def _validator(schema: bytes) -> jsonschema_rs.Validator | None:
    """None when the schema is of no use: the worker has the last word all the same."""
    try:
        return jsonschema_rs.validator_for(schema.decode(), mask="value", offline=True)
    except ValueError as error:
        log.warning("a kind's JSON Schema cannot be used", extra={"error": str(error)[:500]})
        return None
