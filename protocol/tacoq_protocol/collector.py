"""Python's garbage collector, in a process of ours once it is up and about to work on batches.

A batch of thousands of tasks is some hundred thousand objects, none of them garbage before it is done. With the
interpreter's thresholds a collection comes every 700 of them, and each of the larger ones walks all modules, too.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000  # objects made and kept, before the next look


def expect_batches() -> None:
    """Look for garbage more seldom, and no more among what is there by now. For processes that are all ours."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
