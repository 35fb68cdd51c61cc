"""Labels of workers, as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.labels import MAX_LABELS, check_labels, parse_labels


def test_last_of_a_name_counts() -> None:
    assert parse_labels(["region=us", "a/b.c-d=x = y", "region=eu", "empty="]) == {
        "region": "eu",
        "a/b.c-d": "x = y",
        "empty": "",
    }


@pytest.mark.parametrize("written", ["eu", "=eu", "re gion=eu", "-a=b", "a=b\nc", "a=" + "x" * 201, "x" * 64 + "=a"])
def test_what_is_none(written: str) -> None:
    with pytest.raises(ConfigurationError, match="label"):
        parse_labels([written])


@pytest.mark.parametrize("given", [["region"], {"region": 1}, {1: "eu"}, {str(n): "" for n in range(MAX_LABELS + 1)}])
def test_what_code_must_not_give(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="label"):
        check_labels(given)
