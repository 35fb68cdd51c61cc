"""Where the settings come from, and what is said when they are wrong."""

from __future__ import annotations

import pytest

from tacoq_protocol.errors import ConfigurationError
from tacoq_publisher import Publisher
from tacoq_publisher.settings import PublisherSettings, load_settings


def test_without_anything_the_manager_is_at_home() -> None:
    settings = load_settings()
    assert settings.manager_url == "http://127.0.0.1:3000"
    assert settings.api_key is None


def test_arguments_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACOQ_MANAGER_URL", "http://tacoq.example:8080/behind/a/proxy/")
    monkeypatch.setenv("TACOQ_API_KEY", "from-outside")
    settings = load_settings()
    assert settings.manager_url == "http://tacoq.example:8080/behind/a/proxy"
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "from-outside"
    settings = load_settings("https://other.example", "given")
    assert settings.manager_url == "https://other.example"
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "given"


@pytest.mark.parametrize("url", ["", "127.0.0.1:3000", "ftp://tacoq.example", "http://", "http://[::1"])
def test_a_wrong_address_is_an_error_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r'TACOQ_MANAGER_URL .* as in "http://127.0.0.1:3000"'):
        Publisher(url)


def test_an_api_key_that_no_header_can_carry_is_an_error_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="TACOQ_API_KEY") as caught:
        load_settings(api_key="geheim\nX-Evil: 1")
    assert "geheim" not in str(caught.value)


def test_a_variable_that_is_empty_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACOQ_API_KEY", "")
    monkeypatch.setenv("TACOQ_MANAGER_URL", "")
    assert load_settings() == PublisherSettings(manager_url="http://127.0.0.1:3000", api_key=None)


@pytest.mark.parametrize("option", ["retry_for", "request_timeout"])
def test_a_wrong_duration_is_named(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} = 'long'"):
        Publisher(**{option: "long"})
    with pytest.raises(ConfigurationError, match="request_timeout = 0 leaves no time"):
        Publisher(request_timeout=0)
