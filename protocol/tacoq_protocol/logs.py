"""Structured logging for the processes we start: one line of JSON per event on stderr, or plain text on a terminal.

Libraries only log to `logging.getLogger("tacoq.…")` with a fixed sentence and fields in `extra`.
"""

from __future__ import annotations

import logging
import sys
import time

from pythonjsonlogger.json import JsonFormatter

_PLAIN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _TextFormatter(logging.Formatter):
    """`12:00:01 INFO tacoq.settle  release settled  task_id=… to=failed`."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = [f"{k}={v}" for k, v in record.__dict__.items() if k not in _PLAIN_ATTRIBUTES]
        return f"{line}  {' '.join(fields)}" if fields else line


def configure_logging(level: str = "INFO", *, json: bool | None = None) -> None:
    """Send the root logger to stderr. `json` None: text when stderr is a terminal, else JSON."""
    handler = logging.StreamHandler(sys.stderr)
    if json if json is not None else not sys.stderr.isatty():
        formatter = JsonFormatter(
            "{asctime}{levelname}{name}{message}", style="{", rename_fields={"asctime": "at", "levelname": "level"}
        )
        formatter.converter = time.gmtime
        formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
        handler.setFormatter(formatter)
    else:
        handler.setFormatter(_TextFormatter("{asctime} {levelname:7} {name}  {message}", "%H:%M:%S", style="{"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("alembic", "asyncio", "uvicorn", "watchfiles"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for told_by_us in ("aiormq", "aio_pika"):  # each lost connection is one line of tacoq.broker
        logging.getLogger(told_by_us).setLevel(logging.CRITICAL)
