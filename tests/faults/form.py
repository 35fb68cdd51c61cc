"""Form: FAULTS_* variables in; short or long, the seed and the file of verdicts out. Nothing else reads them.

- `FAULTS_LONG=1`: the long form, of `make faults`; the short one is part of the suite.
- `FAULTS_SEED`: of all random draws; without it each run draws its own, and a failure names it.
- `FAULTS_SECONDS`: how long the campaign breaks things.
- `FAULTS_VERDICTS`: a file to which each verdict is appended, as a line of JSON.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Form:
    """How this run is to be."""

    long: bool
    seed: int
    seconds: float  # of the campaign
    verdicts: Path | None


def load_form() -> Form:
    long = os.environ.get("FAULTS_LONG") == "1"
    seed = os.environ.get("FAULTS_SEED")
    seconds = os.environ.get("FAULTS_SECONDS")
    verdicts = os.environ.get("FAULTS_VERDICTS")
    return Form(
        long=long,
        seed=int(seed) if seed else int.from_bytes(os.urandom(4)),
        seconds=float(seconds) if seconds else 300.0 if long else 30.0,
        verdicts=Path(verdicts) if verdicts else None,
    )


FORM = load_form()
