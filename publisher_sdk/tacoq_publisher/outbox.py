"""Outbox: a publish inside the application's own transaction in, a row of that transaction out.

`tacoq outbox` forwards what was committed (forwarder.py). The table is the application's: `metadata` makes it, by
`create_all` or as one of Alembic's `target_metadata`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Unpack, overload
from uuid import UUID

try:
    from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, MetaData, Table, Text, Uuid, event, func, text
    from sqlalchemy.dialects.mysql import LONGTEXT
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, UOWTransaction, registry, scoped_session
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"the outbox needs {missing.name}: pip install 'tacoq-publisher[outbox]'", name=missing.name
    ) from missing

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.trace import active_tracer, trace_of
from tacoq_publisher.newtask import NewTaskFields, TaskOptions, call_of, prepare, publish_options
from tacoq_publisher.spans import around, published, start_publish

CHANNEL: Final = "tacoq_outbox"  # on Postgres, where forwarders hear of commits

AnySession = Session | scoped_session[Any] | AsyncSession | async_scoped_session[Any]

metadata: Final = MetaData()
_long = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
_counted = BigInteger().with_variant(Integer(), "sqlite")  # which counts nothing else by itself

table: Final = Table(
    "tacoq_outbox",
    metadata,
    Column("seq", _counted, primary_key=True, autoincrement=True),  # the order in which they are forwarded
    Column("id", Uuid, nullable=False),  # for people; twice, where a publish was repeated with an id of its own
    Column("task", _long, nullable=False),  # JSON, as it will be sent
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("error", Text),  # why the manager refuses it: it is not sent again until this is NULL
    sqlite_autoincrement=True,  # a number is not used again: a forwarder may be slow to delete what had it
)
_waits = table.c.error.is_(None)
Index("tacoq_outbox_waiting", table.c.seq, postgresql_where=_waits, sqlite_where=_waits)  # whatever was refused


class _Row:
    """A row of `table`."""

    def __init__(self, id: UUID, task: str) -> None:
        self.id = id
        self.task = task


registry(metadata=metadata).map_imperatively(_Row, table)


@overload
def publish(
    session: AnySession, call: TaskCall[Any], /, *, task_id: UUID | None = None, **options: Unpack[TaskOptions]
) -> UUID: ...


@overload
def publish(
    session: AnySession,
    kind: str,
    /,
    payload: object = None,
    *,
    task_id: UUID | None = None,
    **options: Unpack[TaskOptions],
) -> UUID: ...


def publish(
    session: AnySession,
    call: TaskCall[Any] | str,
    /,
    payload: object = None,
    *,
    task_id: UUID | None = None,
    **options: Unpack[TaskOptions],
) -> UUID:
    """Publish a task if the transaction of `session` commits, and not if it does not; return the task's id.

    Arguments are those of `Publisher.publish`; a `delay` and an `expires` count from now, by this machine's clock. With
    an AsyncSession there is nothing to await, either: the row is written when the session flushes. It is durable with
    the commit, and forwarded after it by `tacoq outbox`: until then the manager does not know the id.

    With `idempotency_key` or `unique` the task that answers may be another one, and the manager never knows this id.

    Raises ConfigurationError for a wrong option, or "reject" as `on_conflict`, of which nobody here would hear;
    InvalidTask for a wrong kind or payload. What else the manager may refuse shows in the row (`error`) and in the
    forwarder's log.
    """
    sync = _session_of(session)
    tracer = active_tracer()
    span = None if tracer is None else start_publish(tracer, call, options, type="create")
    with around(span):
        fields = publish_options(**options)
        if fields.get("on_conflict") == "reject":
            raise ConfigurationError(
                "on_conflict = 'reject' is an answer, and an outbox gives none: 'return' or 'replace'"
            )
        fields = _from_now(fields, datetime.now(UTC))
        trace = None if span is None else trace_of(span)
        prepared = prepare(call_of(call, payload), fields, task_id=task_id, trace=trace)
        sync.add(_Row(prepared.id, prepared.body.decode()))
        if span is not None:
            published(span, prepared.id)
    return prepared.id


def _session_of(session: object) -> Session:
    if isinstance(session, scoped_session | async_scoped_session):
        session = session()
    if isinstance(session, AsyncSession):
        return session.sync_session
    if not isinstance(session, Session):
        raise TypeError(f"outbox.publish() takes a SQLAlchemy Session or AsyncSession first, and not {session!r}")
    return session


def _from_now(fields: NewTaskFields, now: datetime) -> NewTaskFields:
    """With moments in place of durations: nobody knows when the manager will hear of it."""
    if "delay" in fields:
        fields["run_at"] = now + timedelta(seconds=fields.pop("delay") or 0.0)
    if "expires_in" in fields:
        fields["expires_at"] = now + timedelta(seconds=fields.pop("expires_in") or 0.0)
    due, deadline = fields.get("run_at"), fields.get("expires_at")
    if due is not None and deadline is not None and deadline <= due:
        raise ConfigurationError(
            f"the task would expire before it is due: it expires at {deadline}, and is due at {due}"
        )
    return fields


@event.listens_for(Session, "after_flush")
def _notify(session: Session, _flushed: UOWTransaction) -> None:
    """Have forwarders on Postgres told by the commit; others look by themselves."""
    if session.twophase or not any(isinstance(row, _Row) for row in session.new):  # what notifies cannot be prepared
        return
    connection = session.connection(bind_arguments={"mapper": _Row})  # where the flush wrote: it is not over
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"NOTIFY {CHANNEL}"))
