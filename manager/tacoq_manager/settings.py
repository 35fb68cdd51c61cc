"""The manager's settings: TACOQ_* variables in, one checked value out. Nothing else reads the environment."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from tacoq_protocol.durations import read_duration
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.topology import NAMESPACE_PATTERN, Topology

_SECRET = ("database_url", "broker_url", "results_url", "manager_url", "api_key")  # values that may hold a password
_POSTGRES = re.compile(r"^(postgres|postgresql)(\+asyncpg)?://")


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return read_duration(value)
    except ConfigurationError:
        raise ValueError("is not a duration: give seconds, or text like 30d (ms s m h d)") from None


class Settings(BaseSettings):
    """One field per variable: `database_url` is TACOQ_DATABASE_URL."""

    model_config = SettingsConfigDict(env_prefix="TACOQ_", frozen=True, extra="forbid", env_ignore_empty=True)

    database_url: str = "postgresql://postgres@127.0.0.1:5432/tacoq"
    broker_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    namespace: str = "tacoq"  # prefix of every exchange and queue
    task_queues: Literal["classic", "quorum"] = "classic"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 3000
    api_key: SecretStr | None = None  # unset: the API is open to whoever reaches it
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    retention: Annotated[timedelta, BeforeValidator(_duration)] = timedelta(days=30)
    results_url: str | None = None  # a Redis; unset: results are in Postgres
    results_ttl: Annotated[timedelta, BeforeValidator(_duration)] = timedelta(days=1)  # there

    @field_validator("database_url")
    @classmethod
    def _one_spelling(cls, url: str) -> str:
        if not _POSTGRES.match(url):
            raise ValueError("is not the URL of a Postgres database: give postgresql://user:password@host:5432/name")
        return _POSTGRES.sub("postgresql://", url)

    @field_validator("broker_url")
    @classmethod
    def _is_amqp(cls, url: str) -> str:
        if not url.startswith(("amqp://", "amqps://")):
            raise ValueError("is not the URL of a RabbitMQ virtual host: give amqp://user:password@host:5672/vhost")
        return url

    @field_validator("namespace")
    @classmethod
    def _is_a_prefix(cls, namespace: str) -> str:
        if not re.fullmatch(NAMESPACE_PATTERN, namespace):
            raise ValueError("is not a namespace: up to 50 letters, digits, - and _, not beginning with -")
        return namespace

    @field_validator("retention")
    @classmethod
    def _is_a_day(cls, retention: timedelta) -> timedelta:
        if retention < timedelta(days=1):
            raise ValueError("is less than a day, and the history is kept by the day: give 1d or more")
        return retention

    @field_validator("results_url")
    @classmethod
    def _is_redis(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("is not the URL of a Redis: give redis://user:password@host:6379/0")
        return url

    @field_validator("results_ttl")
    @classmethod
    def _outlives_the_commit(cls, ttl: timedelta) -> timedelta:
        if ttl < timedelta(minutes=1):
            raise ValueError("is less than a minute, and a result has to outlive the commit after it: give 1m or more")
        return ttl

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level

    @property
    def topology(self) -> Topology:
        return Topology(self.namespace, self.task_queues)


class LookSettings(Settings):
    """Those of a command that looks at a running system from outside, too."""

    manager_url: str = "http://127.0.0.1:3000"

    @field_validator("manager_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:  # a port that is none
            fits = False
        if not fits:
            raise ValueError("is not the URL of a manager: give http://127.0.0.1:3000")
        return url.rstrip("/")


Kind = TypeVar("Kind", bound=Settings)


def load_settings(**given: object) -> Settings:
    """Read the environment; `given` goes before it. Raises ConfigurationError that names each wrong variable."""
    return _load(Settings, given)


def load_look_settings() -> LookSettings:
    """Read the environment. Raises ConfigurationError that names each wrong variable."""
    return _load(LookSettings, {})


def _load(kind: type[Kind], given: dict[str, object]) -> Kind:
    try:
        return kind(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = "; ".join(f"TACOQ_{str(found['loc'][0]).upper()}: {_told(found)}" for found in error.errors())
        raise ConfigurationError(f"settings: {wrong}") from None


def _told(found: ErrorDetails) -> str:
    shown = "" if found["loc"][0] in _SECRET else f", but it is {found['input']!r}"
    return f"{found['msg'].removeprefix('Value error, ')}{shown}"
