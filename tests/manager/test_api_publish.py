"""POST /v1/tasks and /batch: what is right is stored once, what is wrong is named and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

from tacoq_protocol.http import MAX_BATCH_TASKS, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES
from tacoq_protocol.ids import new_task_id
from tests.manager.rows import id_at, insert_final
from tests.manager.serving import Served


def task(**fields: Any) -> dict[str, Any]:
    return {"id": str(new_task_id()), "kind": "add", "payload": {"x": 1}} | fields


def large(content: object) -> BytesIO:
    """A body that aiohttp takes without a warning."""
    return BytesIO(json.dumps(content).encode())


async def stored(served: Served) -> list[dict[str, Any]]:
    _, page = await served.ask("GET", "/v1/tasks?limit=500")
    tasks: list[dict[str, Any]] = page["tasks"]
    return tasks


async def test_a_task_is_accepted_with_201(served: Served) -> None:
    new = task(priority=3, queue="slow", max_attempts=2, timeout=1.5, expires_in=60)
    assert await served.ask("POST", "/v1/tasks", json=new) == (
        201,
        {"id": new["id"], "state": "pending", "duplicate": False},
    )
    (found,) = await stored(served)
    for name in ("id", "kind", "priority", "queue", "max_attempts", "timeout"):
        assert found[name] == new[name]


async def test_a_delayed_task_is_scheduled(served: Served) -> None:
    _, answer = await served.ask("POST", "/v1/tasks", json=task(delay=3600))
    assert answer["state"] == "scheduled"
    _, answer = await served.ask("POST", "/v1/tasks", json=task(run_at="2100-01-01T00:00:00+02:00"))
    assert answer["state"] == "scheduled"


async def test_the_same_task_again_is_200_also_when_it_has_ended(served: Served) -> None:
    new = task()
    await served.ask("POST", "/v1/tasks", json=new)
    assert await served.ask("POST", "/v1/tasks", json=new) == (
        200,
        {"id": new["id"], "state": "pending", "duplicate": True},
    )
    await served.ask("POST", f"/v1/tasks/{new['id']}/cancel")
    assert await served.ask("POST", "/v1/tasks", json=new) == (
        200,
        {"id": new["id"], "state": "cancelled", "duplicate": True},
    )


async def test_the_same_id_with_other_content_is_a_conflict(served: Served) -> None:
    new = task()
    await served.ask("POST", "/v1/tasks", json=new)
    status, problem = await served.ask("POST", "/v1/tasks", json=new | {"payload": {"x": 2}})
    assert (status, problem["task_id"]) == (409, new["id"])
    assert "index" not in problem
    assert len(await stored(served)) == 1


async def test_a_batch_is_answered_in_its_order(served: Served) -> None:
    tasks = [task(delay=60 if number % 2 else None) for number in range(50)]
    status, answer = await served.ask("POST", "/v1/tasks/batch", json={"tasks": tasks})
    assert status == 201
    assert [one["id"] for one in answer["tasks"]] == [one["id"] for one in tasks]
    assert [one["state"] for one in answer["tasks"]] == ["pending", "scheduled"] * 25


WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    ({"priority": 12}, "/priority", "priority"),
    ({"priority": "high"}, "/priority", "priority"),
    ({"kind": "a b"}, "/kind", "kind"),
    ({"kind": None}, "/kind", "kind"),
    ({"queue": "a/b"}, "/queue", "queue"),
    ({"id": "17"}, "/id", "id"),
    ({"delay": -1}, "/delay", "delay"),
    ({"run_at": "2030-01-01T00:00:00"}, "/run_at", "run_at"),
    ({"max_attempts": 0}, "/max_attempts", "max_attempts"),
    ({"timeout": 0}, "/timeout", "timeout"),
    ({"traceparent": "x"}, "/traceparent", "traceparent"),
    ({"colour": "red"}, None, "colour"),
    ({"id": "6b2e6c1e-6f6b-4a3c-8a55-0f7d7a3f1c11"}, None, "UUIDv7"),
    ({"delay": 1, "run_at": "2030-01-01T00:00:00Z"}, None, "run_at"),
]


async def test_a_wrong_task_is_422_and_says_where(served: Served) -> None:
    for fields, pointer, word in WRONG:
        status, problem = await served.ask("POST", "/v1/tasks", json=task(**fields))
        assert (status, problem.get("pointer")) == (422, pointer), problem
        assert word in problem["detail"]
        assert "index" not in problem
    assert await stored(served) == []


async def test_a_batch_with_one_wrong_task_names_it_and_stores_nothing(served: Served) -> None:
    for fields, pointer, word in WRONG:
        tasks = [task() for _ in range(5)]
        tasks[3] = task(**fields)
        status, problem = await served.ask("POST", "/v1/tasks/batch", json={"tasks": tasks})
        assert (status, problem["index"], problem.get("pointer")) == (422, 3, pointer), problem
        assert problem["detail"].startswith("task 3 of the batch: ")
        assert problem["detail"].endswith("nothing of the batch was accepted")
        assert word in problem["detail"]
    assert await stored(served) == []


async def test_a_batch_with_a_known_id_and_other_content_names_it_and_stores_nothing(served: Served) -> None:
    known = task()
    await served.ask("POST", "/v1/tasks", json=known)
    tasks = [task(), known | {"priority": 9}, task()]
    status, problem = await served.ask("POST", "/v1/tasks/batch", json={"tasks": tasks})
    assert (status, problem["index"], problem["task_id"]) == (409, 1, known["id"])
    assert len(await stored(served)) == 1


async def test_a_batch_that_has_an_id_twice_is_422(served: Served) -> None:
    one = task()
    status, problem = await served.ask("POST", "/v1/tasks/batch", json={"tasks": [one, one]})
    assert (status, problem["index"]) == (422, 1)
    assert await stored(served) == []


async def test_a_batch_of_no_or_too_many_tasks_is_422(served: Served) -> None:
    for tasks in ([], [task()] * (MAX_BATCH_TASKS + 1), None):
        status, problem = await served.ask("POST", "/v1/tasks/batch", json={"tasks": tasks})
        assert (status, problem["pointer"]) == (422, "/tasks")


async def test_what_is_not_json_is_400(served: Served) -> None:
    bad_payload = json.dumps(task(payload="#")).replace('"#"', "{bad}").encode()
    for path in ("/v1/tasks", "/v1/tasks/batch", "/v1/tasks/wait"):
        for body in (b"", b"{", b"nonsense", b'{"id": "\xff"}'):
            status, problem = await served.ask("POST", path, data=body)
            assert status == 400, body
            assert problem["detail"].startswith("the body is not JSON")
    deep = json.dumps(task(payload="#")).replace('"#"', "[" * 100_000 + "]" * 100_000).encode()
    status, problem = await served.ask("POST", "/v1/tasks", data=deep)
    assert (status, problem["detail"]) == (400, "the body is nested too deep to be read")
    assert (await served.ask("POST", "/v1/tasks", data=bad_payload))[0] == 400
    assert (await served.ask("POST", "/v1/tasks/batch", data=b'{"tasks": [' + bad_payload + b"]}"))[0] == 400
    assert await stored(served) == []


async def test_bytes_that_are_no_text_are_refused_inside_a_payload_too(served: Served) -> None:
    body = json.dumps(task(payload="#")).encode().replace(b"#", b"\xff\xfe")
    assert (await served.ask("POST", "/v1/tasks", data=body))[0] == 400
    assert await stored(served) == []


async def test_a_payload_comes_back_as_it_went_in(served: Served) -> None:
    payloads: list[Any] = ["é ☃ \U0001f32e", "\0", {"n": 10**30}, [], None]
    for payload in payloads:
        task_id = await served.publish(payload=payload)
        _, found = await served.ask("GET", f"/v1/tasks/{task_id}?payload=true")
        assert found["payload"] == payload


async def test_a_payload_over_the_limit_is_413_and_named(served: Served) -> None:
    fits, over = "x" * (MAX_PAYLOAD_BYTES - 2), "x" * (MAX_PAYLOAD_BYTES - 1)
    assert (await served.ask("POST", "/v1/tasks", data=large(task(payload=fits))))[0] == 201
    status, problem = await served.ask("POST", "/v1/tasks", data=large(task(payload=over)))
    assert (status, problem["pointer"]) == (413, "/payload")
    assert "1,048,576" in problem["detail"]
    batch = {"tasks": [task(), task(payload=over)]}
    status, problem = await served.ask("POST", "/v1/tasks/batch", data=large(batch))
    assert (status, problem["index"], problem["pointer"]) == (413, 1, "/payload")
    assert len(await stored(served)) == 1


async def test_a_body_over_the_limit_is_413_before_it_is_read_to_its_end(served: Served) -> None:
    status, _ = await served.ask("POST", "/v1/tasks/batch", data=BytesIO(b" " * (MAX_BODY_BYTES + 1)))
    assert status == 413
    sent = 0

    async def endless() -> AsyncIterator[bytes]:  # in chunks: no length is declared
        nonlocal sent
        for _ in range(400):
            sent += 1
            yield b" " * 2**20

    status, problem = await served.ask("POST", "/v1/tasks/batch", data=endless())
    assert status == 413
    assert "nothing of it was accepted" in problem["detail"]
    assert sent < 400


async def test_an_id_from_tomorrow_is_refused_and_one_from_long_ago_is_not(served: Served) -> None:
    now = datetime.now(UTC)
    status, problem = await served.ask("POST", "/v1/tasks", json=task(id=str(id_at(now + timedelta(days=2)))))
    assert status == 422
    assert "future" in problem["detail"]
    assert (await served.ask("POST", "/v1/tasks", json=task(id=str(id_at(now - timedelta(days=200))))))[0] == 201


async def test_a_kind_that_no_worker_knows_waits(served: Served) -> None:
    task_id = await served.publish(kind="nobody.knows:this")
    assert (await served.ask("GET", f"/v1/tasks/{task_id}"))[1]["state"] == "pending"


async def test_while_the_broker_is_away_tasks_are_accepted(served: Served) -> None:
    served.hub.go_down()
    task_id = await served.publish()
    assert (await served.ask("GET", f"/v1/tasks/{task_id}"))[1]["state"] == "pending"


async def test_a_failed_task_is_retried_as_a_new_one(served: Served) -> None:
    old = new_task_id()
    ended = datetime.now(UTC)
    await insert_final(served.manager.database, [old], finished_at=ended, payload=b'{"x":7}')
    await served.manager.database.settle.fetch("UPDATE task_history SET state = 'failed', result = NULL")
    status, answer = await served.ask("POST", f"/v1/tasks/{old}/retry")
    assert status == 201
    assert answer["id"] != str(old)
    _, new = await served.ask("GET", f"/v1/tasks/{answer['id']}?payload=true")
    assert (new["retry_of"], new["payload"], new["state"], new["kind"]) == (str(old), {"x": 7}, "pending", "add")
    assert (await served.ask("GET", f"/v1/tasks/{old}"))[1]["state"] == "failed"


async def test_what_has_not_failed_is_not_retried(served: Served) -> None:
    pending, completed = await served.publish(), new_task_id()
    await insert_final(served.manager.database, [completed], finished_at=datetime.now(UTC))
    for task_id, word in ((pending, "pending"), (completed, "completed")):
        status, problem = await served.ask("POST", f"/v1/tasks/{task_id}/retry")
        assert status == 409
        assert word in problem["detail"]
    assert (await served.ask("POST", f"/v1/tasks/{new_task_id()}/retry"))[0] == 404
