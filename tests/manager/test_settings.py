"""Settings: what the environment may say, and what a wrong variable is answered with."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tacoq_manager.settings import Settings, load_settings
from tacoq_protocol.errors import ConfigurationError


def test_defaults_stay_on_this_machine() -> None:
    settings = Settings()
    assert settings.database_url == "postgresql://postgres@127.0.0.1:5432/tacoq"
    assert (settings.host, settings.port) == ("127.0.0.1", 3000)
    assert settings.retention == timedelta(days=30)
    assert settings.api_key is None
    assert (settings.results_url, settings.results_ttl) == (None, timedelta(days=1))
    assert (settings.topology.namespace, settings.topology.task_queues) == ("tacoq", "classic")


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql+asyncpg://u:p@db/x",
        "BROKER_URL": "amqps://u:p@mq/v",
        "NAMESPACE": "test-1_a",
        "TASK_QUEUES": "quorum",
        "HOST": "0.0.0.0",
        "PORT": "1",
        "API_KEY": "geheim",
        "LOG_LEVEL": "debug",
        "RETENTION": "90d",
        "RESULTS_URL": "rediss://u:p@r:6380/2",
        "RESULTS_TTL": "12h",
    }.items():
        monkeypatch.setenv(f"TACOQ_{name}", value)
    settings = load_settings(port=2)
    assert settings.database_url == "postgresql://u:p@db/x"
    assert settings.broker_url == "amqps://u:p@mq/v"
    assert (settings.topology.namespace, settings.topology.task_queues) == ("test-1_a", "quorum")
    assert (settings.host, settings.port, settings.log_level) == ("0.0.0.0", 2, "DEBUG")
    assert settings.retention == timedelta(days=90)
    assert (settings.results_url, settings.results_ttl) == ("rediss://u:p@r:6380/2", timedelta(hours=12))
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "geheim"
    assert "geheim" not in repr(settings)


@pytest.mark.parametrize("value", ["172800", "48h", "2d"])
def test_the_retention_is_seconds_or_text(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACOQ_RETENTION", value)
    assert load_settings().retention == timedelta(days=2)


@pytest.mark.parametrize("url", ["postgres://h/x", "postgresql://h/x", "postgresql+asyncpg://h/x"])
def test_the_spellings_of_a_postgres_url_are_one(url: str) -> None:
    assert Settings(database_url=url).database_url == "postgresql://h/x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:secret@h/x"),
        ("BROKER_URL", "http://u:secret@h"),
        ("NAMESPACE", "a.b"),
        ("NAMESPACE", ""),
        ("NAMESPACE", "a" * 51),
        ("TASK_QUEUES", "lazy"),
        ("PORT", "70000"),
        ("LOG_LEVEL", "loud"),
        ("RETENTION", "soon"),
        ("RETENTION", "1h"),
        ("RESULTS_URL", "http://u:secret@h"),
        ("RESULTS_TTL", "soon"),
        ("RESULTS_TTL", "59s"),
    ],
)
def test_a_wrong_variable_is_named_and_no_secret_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TACOQ_{name}", value)
    if value == "":
        assert load_settings().namespace == "tacoq"  # empty counts as not set
        return
    with pytest.raises(ConfigurationError, match=f"TACOQ_{name}: ") as error:
        load_settings()
    assert "secret" not in str(error.value)
