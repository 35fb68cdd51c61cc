"""Task ids: UUIDv7, growing within a process."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID, uuid4

import pytest

from tacoq_protocol import ids


def test_ids_are_version_7_and_tell_their_time() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    made = ids.new_task_id()
    assert (made.version, made.variant) == (7, RFC_4122)
    assert before <= ids.created_at(made) <= datetime.now(UTC)


def test_ids_of_one_process_grow_and_never_repeat() -> None:
    made = [ids.new_task_id() for _ in range(50_000)]
    assert made == sorted(set(made))


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: ids.new_task_id(), range(20_000)))
    assert len(set(made)) == len(made)


def test_clock_that_goes_back_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids.new_task_id()
    monkeypatch.setattr("tacoq_protocol.ids.time.time_ns", lambda: 0)
    assert ids.new_task_id() > first


@pytest.mark.parametrize(
    ("task_id", "says"),
    [(uuid4(), "not a UUIDv7"), (UUID(int=ids.new_task_id().int + (2 * 86_400_000 << 80)), "a day in the future")],
)
def test_what_cannot_be_a_task_id(task_id: UUID, says: str) -> None:
    assert says in (ids.id_problem(task_id, datetime.now(UTC)) or "")
    assert ids.id_problem(ids.new_task_id(), datetime.now(UTC)) is None


def test_parent_and_child_of_a_fork_make_other_ids() -> None:
    program = """
import os
from tacoq_protocol import ids
ids.time.time_ns = lambda: 0
ids.new_task_id()
child = os.fork()
os.write(1, f"{ids.new_task_id()}\\n".encode())
if child:
    os.waitpid(child, 0)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(printed)) == 2
