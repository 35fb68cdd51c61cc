"""Loading: "module:object" in, the Worker it names out, or an error that says what is wrong with it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from tacoq_protocol.errors import ConfigurationError
from tacoq_worker.worker import Worker


def load_worker(target: str) -> Worker:
    """Import the module, from the current directory too, and return its worker. Raises ConfigurationError."""
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise ConfigurationError(f"{target!r} does not name a worker: write MODULE:OBJECT, as in hello:worker")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(module_name, target)
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"{target!r}: {module_name} has no {path!r}; {_workers_in(module)}")
        found = getattr(found, name)
    if not isinstance(found, Worker):
        kind = type(found).__name__
        raise ConfigurationError(f"{target!r} is a {kind} and no Worker; {_workers_in(module)}")
    if not len(found.registry):
        raise ConfigurationError(f"{target!r} has no handlers: decorate a function with @{path}.task")
    return found


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"{target!r}: there is no module {error.name!r} in {Path.cwd()} or on the Python path: "
                "run from the folder that holds it"
            ) from None
        raise ConfigurationError(f"{target!r}: {name} cannot be imported: {error}\n{_where(error)}") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{target!r}: {name} cannot be imported: {reason}\n{_where(error)}") from error


def _where(error: BaseException) -> str:
    """The traceback without the import machinery's frames."""
    frames = traceback.extract_tb(error.__traceback__)
    shown = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    own = traceback.format_exception_only(error) if isinstance(error, SyntaxError) else []  # it has the line in it
    return "".join([*traceback.format_list(shown), *own]).rstrip()


def _workers_in(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Worker)]
    return f"its workers: {', '.join(names)}" if names else "it has no Worker at module level"
