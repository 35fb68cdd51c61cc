"""Silence: when the broker took a session's beats in; whether managers may have taken it for lost meanwhile, out.

A process that stood still, or whose link was silent, does not notice by itself: what it was given before may run
elsewhere by now.
"""

from __future__ import annotations


class Silence:
    """Times are of `time.monotonic`. Written by the heartbeat's thread, read from the session's loop."""

    def __init__(self, longest: float, grace: float) -> None:
        """`longest`: seconds without a beat after which the session may be taken for lost. `grace`: for how long after
        such a silence something may still come that was given to the session before.
        """
        self._longest = longest
        self._grace = grace
        self._heard: float | None = None  # when the last beat that was confirmed had been sent
        self._ended: float | None = None  # when the last silence had

    def broken(self, sent: float, confirmed: float) -> None:
        """A beat that was sent then is confirmed."""
        if self._heard is not None and confirmed - self._heard > self._longest:
            self._ended = confirmed
        self._heard = sent

    def since(self, came: float, now: float) -> bool:
        """True when the session may have been taken for lost since `came`, or lately before it."""
        lasts = self._heard is not None and now - self._heard > self._longest
        return lasts or (self._ended is not None and came < self._ended + self._grace)
