"""Struck: each fault as it is made in, how many there were and how many runs they may have cost out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done, at a `time.time`, to something that could hit the runs of `slots` slots."""

    name: str
    at: float
    slots: int


@dataclass(slots=True)
class Struck:
    """The faults of one test, in order."""

    faults: list[Fault] = field(default_factory=list)

    def strike(self, name: str, slots: int) -> None:
        """Write down a fault, before it is made."""
        self.faults.append(Fault(name, time.time(), slots))

    @property
    def slots(self) -> int:
        """How many runs all of them together may have ended or hidden: so many may have been repeated."""
        return sum(fault.slots for fault in self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def __str__(self) -> str:
        first = self.faults[0].at if self.faults else 0.0
        return (
            "no fault"
            if not self.faults
            else ", ".join(f"{fault.at - first:.1f} s {fault.name}" for fault in self.faults)
        )
