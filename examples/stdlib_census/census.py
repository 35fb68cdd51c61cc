"""The work itself: the path of a Python file in, what is written in it counted out. Knows nothing of TacoQ."""

from __future__ import annotations

import ast
import sysconfig
import tokenize
import warnings
from pathlib import Path

from pydantic import BaseModel


class Counts(BaseModel):
    """What one file holds. `broken` is why it could not be parsed; the test suite has such files on purpose."""

    module: str
    lines: int = 0
    functions: int = 0
    async_functions: int = 0
    classes: int = 0
    imports: int = 0
    documentable: int = 0  # modules, classes and functions
    documented: int = 0  # those with a docstring
    broken: str | None = None


def stdlib() -> Path:
    """Return the folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def modules() -> list[str]:
    """Return every `.py` file of the standard library, relative to its folder, in order."""
    root = stdlib()
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    return sorted(str(path) for path in paths if not {"site-packages", "__pycache__"} & set(path.parts))


def count(module: str) -> Counts:
    """Parse one file of the standard library and count."""
    try:
        with tokenize.open(stdlib() / module) as file:
            source = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old tests
            tree = ast.parse(source, module)
    except (SyntaxError, ValueError) as error:
        return Counts(module=module, broken=type(error).__name__)
    counts = Counts(module=module, lines=source.count("\n"))
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef():
                counts.functions += 1
            case ast.AsyncFunctionDef():
                counts.async_functions += 1
            case ast.ClassDef():
                counts.classes += 1
            case ast.Import() | ast.ImportFrom():
                counts.imports += len(node.names)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            counts.documentable += 1
            counts.documented += ast.get_docstring(node, clean=False) is not None
    return counts
