"""Lines of runs: as many as somebody can read."""

from __future__ import annotations

import logging

import pytest

from tacoq_embedded.lines import AtMost


def test_no_more_lines_a_second_than_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tacoq_embedded.lines.monotonic", lambda: now)
    filter = AtMost(3)
    records = [logging.makeLogRecord({}) for _ in range(10)]
    assert [filter.filter(record) for record in records[:8]] == [True] * 3 + [False] * 5
    now += 1.0
    assert filter.filter(records[8])
    assert vars(records[8])["left_out"] == 5
    assert filter.filter(records[9])
    assert "left_out" not in vars(records[9])
