"""Which deliveries of a channel are settled: tags in, the fewest acks that say so out."""

from __future__ import annotations

from bisect import bisect_left


class Acks:
    """Delivery tags in, the fewest acks out that settle them. What it remembers is what is not settled.

    A tag is settled once: a second ack, or an ack of a tag the broker does not know, would close the channel.
    """

    def __init__(self) -> None:
        self._open: dict[int, None] = {}  # delivered and not settled, in the order of their tags
        self._news: list[int] = []

    def delivered(self, tag: int) -> None:
        """Note a delivery; tags only grow."""
        self._open[tag] = None

    def ack(self, tag: int, *, multiple: bool = False) -> bool:
        """Note that `tag` is acked (with `multiple`, all up to it); False when that is no news."""
        if multiple:
            return self._ack_up_to(tag)
        if tag not in self._open:
            return False
        del self._open[tag]
        self._news.append(tag)
        return True

    def _ack_up_to(self, tag: int) -> bool:
        fresh: list[int] = []
        for earlier in self._open:
            if earlier > tag:
                break
            fresh.append(earlier)
        for earlier in fresh:
            del self._open[earlier]
        self._news += fresh
        return bool(fresh)

    def reject(self, tag: int) -> bool:
        """Note that `tag` is rejected; False when it was settled before."""
        if tag not in self._open:
            return False
        del self._open[tag]
        return True

    @property
    def any(self) -> bool:
        """True when `take` has something to return."""
        return bool(self._news)

    @property
    def unsettled(self) -> int:
        """Deliveries of which the broker does not know that they are settled."""
        return len(self._open) + len(self._news)

    def take(self) -> list[tuple[int, bool]]:
        """Return the acks to be sent now, as (tag, multiple).

        The tag of a `multiple` is always one acked just now: the broker, asked up to a tag it does not hold,
        would take all its unacked deliveries for acked.
        """
        news, self._news = sorted(self._news), []
        oldest = next(iter(self._open), None)
        below = news if oldest is None else news[: bisect_left(news, oldest)]
        single = [(tag, False) for tag in news[len(below) :]]
        return [(below[-1], len(below) > 1), *single] if below else single
