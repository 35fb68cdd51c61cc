"""Columns: the values of a batch's rows in, an array parameter out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def sparse(column: Sequence[T | None]) -> Sequence[T | None] | None:
    """Return the column, or None when it has no value: unnest() fills up with NULL, and asyncpg has nothing to encode.

    asyncpg takes half a microsecond for each element of an array, and most columns of most batches are empty.
    """
    if column and column[0] is not None:
        return column
    return None if column.count(None) == len(column) else column
