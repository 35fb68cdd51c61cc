"""Rules of the design that no linter knows, read off the syntax trees of our packages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["protocol", "publisher_sdk", "worker_sdk", "manager", "embedded"]
MODULES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for folder in PACKAGES
    for path in sorted((ROOT / folder).glob("tacoq_*/**/*.py"))
}
STORE = "manager/tacoq_manager/store/"
SQL = re.compile(r"\b(INSERT INTO|UPDATE \w+ SET|DELETE FROM|SELECT .+ FROM)\b", re.DOTALL)


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call of an attribute, with the attribute's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


def strings(tree: ast.Module) -> Iterator[str]:
    """Yield the text of each string that is not a docstring."""
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("module", MODULES)
def test_first_line_says_what_the_module_is_for(module: str) -> None:
    docstring = ast.get_docstring(MODULES[module])
    assert docstring, f"{module} has no docstring"
    assert len(docstring.splitlines()[0].strip()) > 20


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_400_lines(module: str) -> None:
    assert len((ROOT / module).read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith(STORE)])
def test_sql_is_under_store(module: str) -> None:
    assert not [text for text in strings(MODULES[module]) if SQL.search(text)]


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("manager/")])
def test_nobody_assigns_a_tasks_state(module: str) -> None:
    """`state` changes by a transition that `store/` writes; an object's own `self.state` is something else."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Attribute) and node.attr == "state" and isinstance(node.ctx, ast.Store):
            assert isinstance(node.value, ast.Name)
            assert node.value.id == "self", f"{module}:{node.lineno} assigns .state"


@pytest.mark.parametrize("module", MODULES)
def test_no_aio_pika_iterator_and_no_global_qos(module: str) -> None:
    for name, call in calls(MODULES[module]):
        assert name != "iterator", f"{module}:{call.lineno} uses aio-pika's iterator"
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        for word in ("global_", "global"):
            value = given.get(word)
            assert value is None or (isinstance(value, ast.Constant) and not value.value), f"{module}:{call.lineno}"


def test_migrations_folder_does_not_shadow_alembic() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_every_package_is_typed() -> None:
    assert {path.parent.name for path in ROOT.glob("*/tacoq_*/py.typed")} == {
        "tacoq_protocol",
        "tacoq_publisher",
        "tacoq_worker",
        "tacoq_manager",
        "tacoq_embedded",
    }
