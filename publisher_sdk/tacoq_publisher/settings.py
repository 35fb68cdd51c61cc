"""Settings of a publisher: arguments and `TACOQ_*` variables in, one checked object out."""

from __future__ import annotations

from pydantic import HttpUrl, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tacoq_protocol.errors import ConfigurationError


class PublisherSettings(BaseSettings):
    """Where the manager is and how to prove who asks; and, for `tacoq outbox`, where the application's outbox is."""

    model_config = SettingsConfigDict(env_prefix="TACOQ_", frozen=True, extra="ignore", env_ignore_empty=True)

    manager_url: str = "http://127.0.0.1:3000"
    api_key: SecretStr | None = None
    outbox_url: SecretStr | None = None

    @field_validator("manager_url")
    @classmethod
    def _as_http_url(cls, value: str) -> str:
        return str(HttpUrl(value)).rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value().strip() if value else ""
        if not text.isascii() or not text.isprintable():
            raise ValueError("an API key is printable ASCII")
        return SecretStr(text) if text else None


def load_settings(url: str | None = None, api_key: str | None = None) -> PublisherSettings:
    """Return the settings: arguments go before `TACOQ_MANAGER_URL` and `TACOQ_API_KEY`.

    Raises ConfigurationError, naming the setting.
    """
    given = {name: value for name, value in (("manager_url", url), ("api_key", api_key)) if value is not None}
    try:
        return PublisherSettings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0])
        example = ', as in "http://127.0.0.1:3000"' if name == "manager_url" else ""
        raise ConfigurationError(
            f"TACOQ_{name.upper()} (or the argument for it) is wrong: "
            f"{first['msg'].removeprefix('Value error, ')}{example}"
        ) from None
