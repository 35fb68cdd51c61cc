"""Faults of SQLAlchemy's connections: a broken or missing connection in, `DatabaseUnavailable` out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from tacoq_manager.store.engine import UNREACHABLE, DatabaseUnavailable


@contextmanager
def database_faults() -> Iterator[None]:
    """Around work on `database.engine`: raises DatabaseUnavailable when Postgres is away."""
    try:
        yield
    except DBAPIError as error:
        cause = driver_error(error)
        if isinstance(cause, UNREACHABLE):
            raise DatabaseUnavailable(f"Postgres is not reachable: {_text(cause)}") from error
        raise
    except OSError as error:  # SQLAlchemy wraps the driver's errors only; TimeoutError is an OSError, too
        raise DatabaseUnavailable(f"Postgres is not reachable: {_text(error)}") from error


def driver_error(error: DBAPIError) -> BaseException | None:
    """Return asyncpg's own error under SQLAlchemy's."""
    return None if error.orig is None else error.orig.__cause__


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
