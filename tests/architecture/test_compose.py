"""compose.yaml holds what production needs, and publishes nothing beyond this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LONG_RUNNING = ["postgres", "rabbitmq", "manager", "worker"]


def test_all_parts_are_there() -> None:
    assert set(SERVICES) == {"postgres", "rabbitmq", "migrate", "manager", "worker"}


@pytest.mark.parametrize("name", ["postgres", "rabbitmq", "manager"])
def test_what_others_wait_for_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_manager_is_healthy_when_it_is_ready() -> None:
    assert "/readyz" in " ".join(SERVICES["manager"]["healthcheck"]["test"])


def test_start_order() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["manager"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert SERVICES["worker"]["depends_on"]["rabbitmq"] == {"condition": "service_healthy"}


def test_migration_runs_once() -> None:
    assert SERVICES["migrate"]["restart"] == "no"
    assert SERVICES["migrate"]["command"] == ["migrate"]


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_servers_come_back(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", ["postgres", "rabbitmq"])
def test_data_are_in_a_named_volume(name: str) -> None:
    (volume,) = SERVICES[name]["volumes"]
    assert volume.split(":")[0] in COMPOSE["volumes"]


def test_foreign_images_are_pinned_to_a_major_version() -> None:
    foreign = {service["image"] for service in SERVICES.values() if "build" not in service}
    assert foreign == {"postgres:17", "rabbitmq:4-management"}


def test_every_published_port_is_on_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)


def test_no_password_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    uses = re.findall(r"\$\{(\w+PASSWORD\w*)([^}]*)\}", text)
    assert {name for name, _ in uses} == {"TACOQ_POSTGRES_PASSWORD", "TACOQ_RABBITMQ_PASSWORD"}
    assert all(rest.startswith(":?") for _, rest in uses)
    assert not re.search(r"://\w+:[^$]\S*@", text), "a password is written into a URL"


def test_worker_may_drain_before_it_is_killed() -> None:
    grace = int(SERVICES["worker"]["environment"]["TACOQ_SHUTDOWN_GRACE"].removesuffix("s"))
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > grace


def test_images_run_as_an_ordinary_user() -> None:
    stages = re.split(r"(?m)^FROM ", (ROOT / "Dockerfile").read_text())[1:]
    final = {stage.split()[2]: stage for stage in stages if stage.split()[2] in {"manager", "worker"}}
    assert set(final) == {SERVICES["manager"]["build"]["target"], SERVICES["worker"]["build"]["target"]}
    assert all("\nUSER tacoq\n" in stage for stage in final.values())
