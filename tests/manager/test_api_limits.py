"""Limits through HTTP: all of them at once, or those that are to change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tacoq_manager.store import registry
from tacoq_protocol.messages import KindSpec, Register
from tests.manager.serving import Served


async def patched(served: Served, path: str, **limits: Any) -> Any:
    status, view = await served.ask("PATCH", f"/v1/{path}/limits", json=limits)
    assert status == 200, view
    return view


async def test_what_is_not_given_stays_and_null_is_taken_away(served: Served) -> None:
    await patched(served, "queues/mail", concurrency=5, weights={"big": 3, "small": 2})
    view = await patched(served, "queues/mail", rate="10/s", weights={"small": 1})
    assert view["limits"] == {"concurrency": 5, "rate": "10/s", "weights": {"big": 3}}
    view = await patched(served, "queues/mail", concurrency=None)
    assert view["limits"] == {"concurrency": None, "rate": "10/s", "weights": {"big": 3}}
    _, view = await served.ask("PUT", "/v1/queues/mail/limits", json={"concurrency": 4})
    assert view["limits"] == {"concurrency": 4, "rate": None, "weights": {}}


async def test_the_same_of_a_kind(served: Served) -> None:
    spec = KindSpec("add", concurrency=9, rate="1/s")
    session = Register(uuid4(), "default", 1, [spec], "hash", "host", 1, "0.1", datetime.now(UTC))
    await registry.register(served.manager.database, [session])
    await patched(served, "kinds/add", concurrency=5, max_per_key=2)
    view = await patched(served, "kinds/add", rate_per_key="1/m", concurrency=None, queue="default")
    given = {"concurrency": None, "rate": None, "max_per_key": 2, "rate_per_key": "1/m"}
    assert view["override"] == given
    assert view["limits"] == {**given, "concurrency": 9, "rate": "1/s"}


async def test_changes_at_once_do_not_undo_each_other(served: Served) -> None:
    """Also of a queue that each of them is the first to name."""
    keys = [f"key {number}" for number in range(20)]
    changes: list[dict[str, Any]] = [{"weights": {key: 2}} for key in keys] + [{"rate": "5/s"}, {"concurrency": 7}]
    await asyncio.gather(*(patched(served, "queues/new", **change) for change in changes))
    _, found = await served.ask("GET", "/v1/queues")
    (limits,) = [queue["limits"] for queue in found["queues"] if queue["name"] == "new"]
    assert limits == {"concurrency": 7, "rate": "5/s", "weights": dict.fromkeys(keys, 2)}


async def test_queue_is_listed_while_there_is_something_of_it(served: Served) -> None:
    """Or a name that was mistyped would stay for ever."""

    async def listed() -> list[str]:
        _, found = await served.ask("GET", "/v1/queues")
        return [queue["name"] for queue in found["queues"]]

    await patched(served, "queues/emials", concurrency=5)
    assert await listed() == ["emials"]
    assert (await patched(served, "queues/emials", concurrency=None))["name"] == "emials"
    assert await listed() == []
    for verb, names in (("pause", ["emials"]), ("resume", [])):
        assert (await served.ask("POST", f"/v1/queues/emials/{verb}"))[0] == 200
        assert await listed() == names
    task_id = await served.publish(queue="emials")
    assert await listed() == ["emials"]
    assert (await served.ask("POST", f"/v1/tasks/{task_id}/cancel"))[0] == 200
    assert await listed() == []
    session = Register(uuid4(), "emials", 1, [KindSpec("add")], "hash", "host", 1, "0.1", datetime.now(UTC))
    await registry.register(served.manager.database, [session])
    assert await listed() == [], "what was served once"


async def test_more_weights_than_a_queue_may_have_are_refused(served: Served) -> None:
    await patched(served, "queues/mail", weights={f"a{number}": 2 for number in range(1_000)})
    status, problem = await served.ask("PATCH", "/v1/queues/mail/limits", json={"weights": {"one more": 2}})
    assert status == 422
    assert "weights" in problem["detail"]
