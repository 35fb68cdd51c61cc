"""CPU by process: what counts for whom."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks import accounts

BURNT = 0.2
CHILD = f"import time\nwhile time.process_time() < {BURNT}: pass"
PARENT = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}]); print('burnt', flush=True); input()"
)


@pytest.fixture
def parent() -> Iterator[int]:
    """A process that has done nothing, and whose child has burnt CPU and ended."""
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        yield process.pid
        process.communicate(b"\n")


def test_children_that_have_ended_count_for_their_parent_and_not_for_the_publisher(parent: int) -> None:
    used = accounts.cpu({"worker": [parent], accounts.PUBLISHER: [parent]})
    assert used["worker"] - used[accounts.PUBLISHER] >= BURNT - 0.02, "the system counts in hundredths"


def test_process_that_is_gone_has_used_and_holds_nothing(parent: int) -> None:
    gone = {"worker": [2**22 + 1]}  # above the largest number that Linux gives
    assert accounts.cpu(gone) == {"worker": 0.0}
    assert accounts.memory(gone) == {"worker": 0.0}
    assert accounts.memory({"worker": [parent]})["worker"] > 0
