"""/v1/schedules: made, replaced, listed, paused, run and deleted; what is wrong is named."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from tacoq_protocol.cron import Cron, MissedPolicy
from tacoq_protocol.http import MAX_PAYLOAD_BYTES
from tacoq_protocol.messages import KindSpec, Register
from tests.manager.serving import Served
from tests.manager.test_api_around import say
from tests.support.eventually import eventually

NIGHTLY = {"kind": "add", "cron": "0 3 * * *", "timezone": "Europe/Lisbon", "payload": {"x": 1}}


async def put(served: Served, name: str = "nightly", **fields: Any) -> tuple[int, Any]:
    return await served.ask("PUT", f"/v1/schedules/{name}", json=NIGHTLY | fields)


async def test_a_schedule_is_made_and_shown(served: Served) -> None:
    status, made = await put(served, priority=3, missed="skip", expires_in=60, queue="reports")
    assert status == 201
    expected = NIGHTLY | {
        "name": "nightly",
        "source": "api",
        "priority": 3,
        "missed": "skip",
        "expires_in": 60,
        "queue": "reports",
    }
    assert {field: made[field] for field in expected} == expected
    assert datetime.fromisoformat(made["next_fire_at"]) > datetime.now(UTC)
    assert await served.ask("GET", "/v1/schedules/nightly") == (200, made)
    _, listed = await served.ask("GET", "/v1/schedules")
    assert listed == {"schedules": [{field: value for field, value in made.items() if field != "payload"}]}


async def test_put_again_replaces_it(served: Served) -> None:
    _, made = await put(served)
    status, replaced = await put(served, payload={"x": 2}, priority=1)
    assert (status, replaced["payload"], replaced["priority"]) == (200, {"x": 2}, 1)
    assert (replaced["next_fire_at"], replaced["created_at"]) == (made["next_fire_at"], made["created_at"])
    assert await put(served, payload={"x": 2}, priority=1) == (200, replaced)


async def test_paused_and_resumed(served: Served) -> None:
    _, made = await put(served)
    status, paused = await served.ask("POST", "/v1/schedules/nightly/pause")
    assert (status, paused["paused"], "next_fire_at" in paused) == (200, True, False)
    assert await served.ask("POST", "/v1/schedules/nightly/pause") == (200, paused)
    assert await served.ask("POST", "/v1/schedules/nightly/resume") == (200, made)


async def test_run_now_makes_a_task_also_of_a_paused_one(served: Served) -> None:
    _, made = await put(served, priority=4)
    await served.ask("POST", "/v1/schedules/nightly/pause")
    status, accepted = await served.ask("POST", "/v1/schedules/nightly/run")
    assert (status, accepted["state"]) == (201, "pending")
    _, task = await served.ask("GET", f"/v1/tasks/{UUID(accepted['id'])}?payload=true")
    assert (task["kind"], task["payload"], task["priority"]) == ("add", {"x": 1}, 4)
    _, again = await served.ask("POST", "/v1/schedules/nightly/run")
    assert again["id"] != accepted["id"]
    _, resumed = await served.ask("POST", "/v1/schedules/nightly/resume")
    assert resumed == made, "its fire times know nothing of it"


async def test_deleted_it_is_gone(served: Served) -> None:
    await put(served)
    status, _ = await served.ask("DELETE", "/v1/schedules/nightly")
    assert status == 204
    for method, path in [
        ("GET", "nightly"),
        ("DELETE", "nightly"),
        ("POST", "nightly/pause"),
        ("POST", "nightly/resume"),
        ("POST", "nightly/run"),
    ]:
        status, problem = await served.ask(method, f"/v1/schedules/{path}")
        assert (status, problem["schedule"]) == (404, "nightly")


@pytest.mark.parametrize(
    ("fields", "pointer", "says"),
    [
        ({"cron": "61 3 * * *"}, "/cron", "bad minute"),
        ({"cron": "daily"}, "/cron", "wrong number of fields"),
        ({"cron": "0 0 30 2 *"}, "/cron", "bad day-of-month"),
        ({"cron": 5}, "/cron", "Expected 'str'"),
        ({"timezone": "Europe/Lisboa"}, "/timezone", "IANA"),
        ({"missed": "sometimes"}, "/missed", "Invalid enum value"),
        ({"priority": 10}, "/priority", "<= 9"),
        ({"kind": ""}, "/kind", "matching regex"),
        ({"expires_in": 0}, "/expires_in", "> 0"),
        ({"delay": 5}, None, "unknown field 'delay'"),
    ],
)
async def test_what_is_wrong_is_named(served: Served, fields: dict[str, Any], pointer: str | None, says: str) -> None:
    status, problem = await put(served, **fields)
    assert (status, problem.get("pointer")) == (422, pointer)
    assert says in problem["detail"]
    assert (await served.ask("GET", "/v1/schedules"))[1] == {"schedules": []}


async def test_a_payload_has_the_limit_of_a_tasks(served: Served) -> None:
    body = json.dumps(NIGHTLY | {"payload": "x" * MAX_PAYLOAD_BYTES}).encode()
    status, problem = await served.ask("PUT", "/v1/schedules/nightly", data=io.BytesIO(body))
    assert (status, problem["pointer"]) == (422, "/payload")
    assert "the limit is 1,048,576" in problem["detail"]


async def test_a_name_has_to_be_one(served: Served) -> None:
    for name in ("a%20b", "x" * 201, "a%0A"):
        status, problem = await put(served, name)
        assert status == 422
        assert "is not a schedule's name" in problem["detail"]


async def test_a_schedule_in_code_belongs_to_the_code(served: Served) -> None:
    session = uuid4()
    spec = KindSpec("nightly", cron=Cron("0 4 * * *", "Europe/Lisbon", MissedPolicy.RUN_ALL))
    await say(served, Register(session, "reports", 4, [spec], "h", "host", 7, "0.1", datetime(2026, 1, 1, tzinfo=UTC)))

    async def taken_over() -> Any:
        status, view = await served.ask("GET", "/v1/schedules/nightly")
        assert status == 200
        return view

    view = await eventually(taken_over)
    assert (view["source"], view["kind"], view["queue"], view["missed"]) == ("code", "nightly", "reports", "run_all")
    for method in ("PUT", "DELETE"):
        status, problem = await served.ask(method, "/v1/schedules/nightly", json=NIGHTLY)
        assert (status, problem["schedule"]) == (409, "nightly")
        assert "declared by the code of its workers" in problem["detail"]
    status, paused = await served.ask("POST", "/v1/schedules/nightly/pause")
    assert (status, paused["paused"]) == (200, True)
    served.manager.sessions.leave(session)  # nobody declares it: it can go
    status, _ = await served.ask("DELETE", "/v1/schedules/nightly")
    assert status == 204
