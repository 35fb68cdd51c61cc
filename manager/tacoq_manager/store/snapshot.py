"""Snapshots: what one statement saw of the transactions of others."""

from __future__ import annotations


class Snapshot:
    """As Postgres writes it: the oldest that was under way, the next to come, and all under way between them."""

    def __init__(self, text: str) -> None:
        _, following, under_way = text.split(":")
        self._following = int(following)
        self._under_way = frozenset(map(int, filter(None, under_way.split(","))))

    def sees(self, transaction: int) -> bool:
        """True when what this transaction did was seen; it is committed by now."""
        return transaction < self._following and transaction not in self._under_way
