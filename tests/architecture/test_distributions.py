"""Each distribution builds, installs and imports alone, in an environment that has nothing but what it asks for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "tacoq_protocol": "protocol",
    "tacoq_publisher": "publisher_sdk",
    "tacoq_worker": "worker_sdk",
    "tacoq_manager": "manager",
    "tacoq_embedded": "embedded",
}
# What a distribution installs of ours, besides itself.
NEEDS = {
    "tacoq_protocol": [],
    "tacoq_publisher": ["tacoq_protocol"],
    "tacoq_worker": ["tacoq_protocol"],
    "tacoq_manager": ["tacoq_protocol"],
    "tacoq_embedded": ["tacoq_protocol", "tacoq_publisher", "tacoq_worker", "tacoq_manager"],
}
# Without the extra `rabbitmq` the protocol has no use for its RabbitMQ adapter, and must not need it; so it is with the
# publisher's `outbox` and the manager's `redis`.
EXTRAS = {
    "tacoq_protocol": ["aio_pika", "aiormq", "pamqp"],
    "tacoq_publisher": ["asyncpg", "sqlalchemy"],
    "tacoq_manager": ["redis"],
}

IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil, sys
name, extras = sys.argv[1], sys.argv[2:]
package = importlib.import_module(name)
count = 0
for module in pkgutil.walk_packages(package.__path__, name + "."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name not in extras:
            raise
    else:
        count += 1
for point in importlib.metadata.entry_points(group="tacoq.commands"):
    point.load()
print(package.__file__, count)
"""


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = shutil.which("uv") or (str(beside) if beside.exists() else None)
    assert found, "uv is needed to install the distributions: run make install"
    return found


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build all five; return each by the name of its package."""
    target = tmp_path_factory.mktemp("wheels")
    for folder in FOLDERS.values():
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target, cwd=ROOT / folder)
    return {package: next(target.glob(f"{package}-*.whl")) for package in FOLDERS}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("package", FOLDERS)
def test_installs_and_imports_alone(package: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(uv(), "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    ours = [wheels[name] for name in [package, *NEEDS[package]]]
    pins = f"--constraint={ROOT / 'requirements.txt'}"
    run(uv(), "pip", "install", "--quiet", "--python", python, pins, *ours, cwd=tmp_path)
    extras = EXTRAS.get(package, [])
    place, count = run(python, "-I", "-W", "error", "-c", IMPORT_ALL, package, *extras, cwd=tmp_path).split()
    assert Path(place).is_relative_to(tmp_path)
    assert int(count) > 0
    run(tmp_path / "venv" / "bin" / "tacoq", "--help", cwd=tmp_path)


@pytest.mark.parametrize("package", FOLDERS)
def test_wheel_is_typed_and_holds_only_its_package(package: str, wheels: dict[str, Path]) -> None:
    names = zipfile.ZipFile(wheels[package]).namelist()
    assert f"{package}/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {package}


def test_migrations_ship_with_the_manager(wheels: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(wheels["tacoq_manager"]).namelist())
    sources = [path.relative_to(ROOT) for path in (ROOT / "alembic").rglob("*.py")]
    assert len(sources) > 1
    assert {f"tacoq_manager/{path.as_posix()}" for path in sources} <= names


def test_dashboard_ships_with_the_manager(wheels: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(wheels["tacoq_manager"]).namelist())
    sources = [path.relative_to(ROOT / "manager") for path in (ROOT / "manager/tacoq_manager/dashboard").rglob("*.*")]
    assert len(sources) > 10
    assert {path.as_posix() for path in sources} <= names


@pytest.mark.timeout(180)
def test_migrations_ship_with_the_managers_source_distribution(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT / "manager")
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=next(tmp_path.glob("*/")))
    (wheel,) = tmp_path.glob("*.whl")
    assert "tacoq_manager/alembic/env.py" in zipfile.ZipFile(wheel).namelist()
