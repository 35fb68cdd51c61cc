"""The worker's settings: variables in, one checked value or an error that names the variable out."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tacoq_protocol.errors import ConfigurationError
from tacoq_worker.settings import Pace, load_settings


def test_the_ack_deadline_is_ten_minutes_or_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().ack_deadline == timedelta(seconds=Pace().ack_deadline) == timedelta(minutes=10)
    monkeypatch.setenv("TACOQ_ACK_DEADLINE", "90s")
    assert load_settings().ack_deadline == timedelta(seconds=90)


@pytest.mark.parametrize("value", ["0", "0s", "-1s", "soon"])
def test_an_ack_deadline_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACOQ_ACK_DEADLINE", value)
    with pytest.raises(ConfigurationError, match="TACOQ_ACK_DEADLINE"):
        load_settings()


def test_labels_are_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().labels == {}
    monkeypatch.setenv("TACOQ_WORKER_LABELS", "region=eu, rack=7,")
    assert load_settings().labels == {"region": "eu", "rack": "7"}
    monkeypatch.setenv("TACOQ_WORKER_LABELS", "eu")
    with pytest.raises(ConfigurationError, match=r"TACOQ_WORKER_LABELS is wrong: .*'eu' is not a label"):
        load_settings()
