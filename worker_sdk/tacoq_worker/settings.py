"""Settings of a worker process: TACOQ_* variables in, one checked value out. Only this reads the environment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tacoq_protocol.durations import read_duration
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.labels import parse_labels
from tacoq_protocol.topology import Topology


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return read_duration(value)
    except ConfigurationError:
        raise ValueError(f"{value!r} is not a duration: give seconds, or text like 10m (ms s m h d)") from None


def _labels(written: str) -> dict[str, str]:
    return parse_labels(part for part in written.split(",") if part.strip())


class WorkerSettings(BaseSettings):
    """One field per variable: `broker_url` is TACOQ_BROKER_URL."""

    model_config = SettingsConfigDict(
        env_prefix="TACOQ_", frozen=True, extra="ignore", env_ignore_empty=True, validate_default=True
    )

    broker_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    namespace: str = "tacoq"  # prefix of every exchange and queue
    task_queues: Literal["classic", "quorum"] = "classic"
    shutdown_grace: Annotated[timedelta, BeforeValidator(_duration)] = timedelta(seconds=30)
    ack_deadline: Annotated[timedelta, BeforeValidator(_duration)] = timedelta(minutes=10)
    worker_labels: str = ""  # "region=eu,rack=7"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("broker_url")
    @classmethod
    def _is_amqp(cls, url: str) -> str:
        if not url.startswith(("amqp://", "amqps://")):
            raise ValueError("not the URL of a RabbitMQ virtual host: give amqp://user:password@host:5672/vhost")
        return url

    @field_validator("ack_deadline")
    @classmethod
    def _is_some_time(cls, deadline: timedelta) -> timedelta:
        if not deadline:
            raise ValueError("must be more than 0: the age at which a run's message is acked")
        return deadline

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level

    @field_validator("worker_labels")
    @classmethod
    def _are_labels(cls, written: str) -> str:
        try:
            _labels(written)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return written

    @property
    def labels(self) -> dict[str, str]:
        return _labels(self.worker_labels)

    @property
    def topology(self) -> Topology:
        return Topology(self.namespace, self.task_queues)


def load_settings() -> WorkerSettings:
    """Read the environment. Raises ConfigurationError, naming the variable."""
    try:
        return WorkerSettings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        problem = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"TACOQ_{str(first['loc'][0]).upper()} is wrong: {problem}") from None


@dataclass(frozen=True, slots=True)
class Pace:
    """When a session does what, in seconds. Tests shorten it; `ack_deadline` alone is a setting."""

    beat: float = 2.0  # between heartbeats
    longest_silence: float = 6.0  # without a beat; managers take a session for lost after 10
    listed_after: float = 5.0  # a run this old is listed in heartbeats
    started_after: float = 0.1  # a run this old has its start reported
    slow_run: float = 0.05  # a run this long hands back the unstarted rest of its message
    ack_deadline: float = 600.0  # a run this old has its message acked; RabbitMQ waits 30 min for it
    publish_deadline: float = 10.0
    retry_publish: float = 1.0  # at the latest, after a failed one
    stop_runs: float = 5.0  # for cancelled runs to stop, after the grace time
    last_reports: float = 10.0  # for the last confirms
