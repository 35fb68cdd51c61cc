"""Rings: fairness keys of one kind and priority that take turns, each as many tasks at a time as its weight says."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice


class Ring:
    """Keys, the next to be served first, each with the number of its last note."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, int] = OrderedDict()
        self._owed = 0  # what is left of the first key's turn, when it was cut short

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def note(self, key: str, mark: int) -> None:
        """The key waits. A new one comes last."""
        self._keys[key] = mark

    def mark(self, key: str) -> int:
        """The number of its last note; 0 when it does not wait."""
        return self._keys.get(key, 0)

    def remove(self, key: str) -> int:
        """Take a key out; return its mark."""
        if self._owed and next(iter(self._keys)) == key:
            self._owed = 0
        return self._keys.pop(key, 0)

    def share(
        self, part: int, weight: Callable[[str], int], room: Callable[[str], int] | None
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Share `part` out among the keys; return what each gets, and those without room, taken out, with their marks.

        `room` says how many a key may have beside what it got; None: all it can get.
        """
        got: dict[str, int] = {}
        shut: dict[str, int] = {}
        while part and self._keys:
            keys = list(islice(self._keys, part))
            turns = max(1, part // sum(map(weight, keys)))
            for key in keys:
                turn = turns * weight(key) if not self._owed else self._owed + (turns - 1) * weight(key)
                self._owed = 0
                free = turn if room is None else room(key) - got.get(key, 0)
                count = min(turn, free, part)
                if free <= 0:
                    shut[key] = self._keys.pop(key)
                    continue
                got[key] = got.get(key, 0) + count
                part -= count
                if count < min(turn, free):
                    self._owed = turn - count  # the part ended within its turn
                else:
                    self._keys.move_to_end(key)
                if not part:
                    break
        return got, shut
