"""Which deliveries of a channel are settled: tags in, the fewest acks that say so out."""

from __future__ import annotations


class Acks:
    """Delivery tags in, the fewest acks out that settle them.

    A tag is settled once: a second ack, or an ack of a tag the broker does not know, would close the channel.
    """

    def __init__(self) -> None:
        self._low = 1  # all tags below are settled
        self._settled: set[int] = set()
        self._news: list[int] = []

    def ack(self, tag: int, *, multiple: bool = False) -> bool:
        """Note that `tag` is acked (with `multiple`, all up to it); False when that is no news."""
        first = self._low if multiple else max(tag, self._low)
        fresh = [t for t in range(first, tag + 1) if t not in self._settled]
        self._settled.update(fresh)
        self._news += fresh
        return bool(fresh)

    def reject(self, tag: int) -> bool:
        """Note that `tag` is rejected; False when it was settled before."""
        if tag < self._low or tag in self._settled:
            return False
        self._settled.add(tag)
        return True

    @property
    def any(self) -> bool:
        """True when `take` has something to return."""
        return bool(self._news)

    def take(self) -> list[tuple[int, bool]]:
        """Return the acks to be sent now, as (tag, multiple).

        The tag of a `multiple` is always one acked just now: the broker, asked up to a tag it does not hold,
        would take all its unacked deliveries for acked.
        """
        news, self._news = sorted(self._news), []
        while self._low in self._settled:
            self._settled.discard(self._low)
            self._low += 1
        below = [tag for tag in news if tag < self._low]
        single = [(tag, False) for tag in news[len(below) :]]
        return [(below[-1], len(below) > 1), *single] if below else single
