"""Labels of a worker: names and values, or "region=eu" as people write it, in; checked ones out.

They are shown, and steer nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tacoq_protocol.errors import ConfigurationError

NO_LABELS: Final[Mapping[str, str]] = {}
MAX_LABELS: Final = 50
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}")
_MAX_VALUE: Final = 200


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return them as they are. Raises ConfigurationError, naming the one that is wrong."""
    given: object = labels
    if not isinstance(given, Mapping):
        raise ConfigurationError(f'labels = {given!r} is no mapping: give one like {{"region": "eu"}}')
    if len(labels) > MAX_LABELS:
        raise ConfigurationError(f"there are {len(labels)} labels: give at most {MAX_LABELS}")
    for name, value in labels.items():
        _check(name, value)
    return dict(labels)


def parse_labels(written: Iterable[str]) -> dict[str, str]:
    """Return labels from texts like "region=eu"; the last of a name counts. Raises ConfigurationError."""
    labels: dict[str, str] = {}
    for text in written:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"{text!r} is not a label: write NAME=VALUE, as in region=eu")
        labels[name.strip()] = value.strip()
    return check_labels(labels)


def _check(name: object, value: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not the name of a label: up to 63 letters, digits, and _ . / -")
    if not isinstance(value, str) or len(value) > _MAX_VALUE or not value.isprintable():
        raise ConfigurationError(
            f"label {name!r} = {value!r} is not a label's value: a string of up to {_MAX_VALUE} printable characters"
        )
