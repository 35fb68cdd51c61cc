"""Keys at the HTTP door: what is answered, with which status, and what is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tacoq_protocol.http import TASK_EXISTS
from tacoq_protocol.ids import new_task_id
from tests.manager.rows import finish
from tests.manager.serving import Served


def task(**fields: Any) -> dict[str, Any]:
    return {"id": str(new_task_id()), "kind": "add", "payload": {"x": 1, "y": 2}} | fields


async def stored(served: Served) -> list[str]:
    _, page = await served.ask("GET", "/v1/tasks?limit=500")
    return [one["id"] for one in page["tasks"]]


async def test_idempotency_key_is_answered_with_200_and_the_first_task(served: Served) -> None:
    first, second, other = (task(idempotency_key="a", payload=payload) for payload in (1, 1, 2))
    assert (await served.ask("POST", "/v1/tasks", json=first))[0] == 201
    known = {"id": first["id"], "state": "pending", "duplicate": True}
    assert await served.ask("POST", "/v1/tasks", json=second) == (200, known)
    assert await served.ask("POST", "/v1/tasks", json=other) == (200, known | {"differs": True})
    assert await stored(served) == [first["id"]]


async def test_unique_key_is_answered_as_on_conflict_has_it(served: Served) -> None:
    first = task(unique=["x"])
    await served.ask("POST", "/v1/tasks", json=first)
    known = {"id": first["id"], "state": "pending", "duplicate": True}
    assert await served.ask("POST", "/v1/tasks", json=task(unique=["x"])) == (200, known)
    replacing = task(unique=["x"], on_conflict="replace", payload={"x": 1, "y": 3}, delay=60)
    assert await served.ask("POST", "/v1/tasks", json=replacing) == (200, known | {"state": "scheduled"})
    _, found = await served.ask("GET", f"/v1/tasks/{first['id']}?payload=true")
    assert found["payload"] == {"x": 1, "y": 3}
    status, problem = await served.ask("POST", "/v1/tasks", json=task(unique=["x"], on_conflict="reject"))
    assert (status, problem["type"], problem["task_id"]) == (409, TASK_EXISTS, first["id"])
    assert "index" not in problem


async def test_batch_maps_its_answers_and_rejects_as_a_whole(served: Served) -> None:
    sent = [task(unique=["x"]), task(), task(unique=["x"]), task(idempotency_key="a"), task(idempotency_key="a")]
    status, answer = await served.ask("POST", "/v1/tasks/batch", json={"tasks": sent})
    assert status == 201
    assert [one["id"] for one in answer["tasks"]] == [sent[place]["id"] for place in (0, 1, 0, 3, 3)]
    assert [one["duplicate"] for one in answer["tasks"]] == [False, False, True, False, True]
    rejected = {"tasks": [task(), task(unique=["x"], on_conflict="reject")]}
    status, problem = await served.ask("POST", "/v1/tasks/batch", json=rejected)
    assert (status, problem["type"], problem["index"]) == (409, TASK_EXISTS, 1)
    assert problem["task_id"] == sent[0]["id"]
    assert "nothing of the batch was accepted" in problem["detail"]
    assert len(await stored(served)) == 3


WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    ({"unique": []}, "/unique", "unique"),
    ({"unique": "x"}, "/unique", "unique"),
    ({"unique": [""]}, "/unique/0", "unique"),
    ({"unique": ["x"] * 21}, "/unique", "unique"),
    ({"unique": ["z"]}, None, "no field 'z'"),
    ({"unique": ["x"], "payload": 1}, None, "no object"),
    ({"unique": ["x"], "on_conflict": "ignore"}, "/on_conflict", "on_conflict"),
    ({"on_conflict": "replace"}, None, "on_conflict"),
    ({"idempotency_key": ""}, "/idempotency_key", "idempotency_key"),
    ({"idempotency_key": "a\n"}, "/idempotency_key", "idempotency_key"),
    ({"idempotency_key": "a" * 256}, "/idempotency_key", "idempotency_key"),
    ({"idempotency_window": 60}, None, "idempotency_key"),
    ({"idempotency_key": "a", "idempotency_window": 0}, "/idempotency_window", "idempotency_window"),
    ({"idempotency_key": "a", "idempotency_window": 31 * 86400}, None, "TACOQ_RETENTION"),
]


async def test_wrong_keys_are_422_and_say_where(served: Served) -> None:
    for fields, pointer, word in WRONG:
        status, problem = await served.ask("POST", "/v1/tasks", json=task(**fields))
        assert (status, problem.get("pointer")) == (422, pointer), problem
        assert word in problem["detail"]
        batch = {"tasks": [task(), task(**fields)]}
        status, problem = await served.ask("POST", "/v1/tasks/batch", json=batch)
        assert (status, problem["index"]) == (422, 1), problem
    assert await stored(served) == []


async def failed(served: Served, **fields: Any) -> str:
    new = task(**fields)
    await served.ask("POST", "/v1/tasks", json=new)
    database = served.manager.database
    row = "WITH gone AS (DELETE FROM tasks RETURNING *) INSERT INTO task_history (id, seq, kind, queue, state, run_at,"
    row += " fingerprint, payload, unique_key, finished_at) SELECT id, seq, kind, queue, 'failed', run_at, fingerprint,"
    row += " payload, unique_key, $1 FROM gone"
    await database.settle.fetch(row, datetime.now(UTC))
    return str(new["id"])


async def test_retry_of_a_unique_task_is_answered_with_the_live_one(served: Served) -> None:
    old = await failed(served, unique=["x"])
    status, retried = await served.ask("POST", f"/v1/tasks/{old}/retry")
    assert (status, retried["duplicate"]) == (201, False)
    assert await served.ask("POST", f"/v1/tasks/{old}/retry") == (200, retried | {"duplicate": True})
    known = retried | {"duplicate": True}
    assert await served.ask("POST", "/v1/tasks", json=task(unique=["x"])) == (200, known)


async def test_retry_of_many_makes_one_live_task_for_each_unique_key(served: Served) -> None:
    old = [await failed(served, unique=["x"], payload={"x": x}) for x in (1, 1, 2)]
    _, count = await served.ask("POST", "/v1/tasks/retry", json={"filter": {"kind": "add"}})
    request = {"filter": {"kind": "add"}, "most": 3, "as_of": count["as_of"]}
    for done in (2, 0):
        _, answer = await served.ask("POST", "/v1/tasks/retry", json=request)
        assert answer["done"] == done
    assert len(await stored(served)) == len(old) + 2


async def test_key_is_free_when_the_task_was_cancelled_and_an_idempotency_key_is_not(served: Served) -> None:
    first = task(unique=["x"], idempotency_key="a")
    await served.ask("POST", "/v1/tasks", json=first)
    await served.ask("POST", f"/v1/tasks/{first['id']}/cancel")
    assert (await served.ask("POST", "/v1/tasks", json=task(unique=["x"])))[0] == 201
    known = {"id": first["id"], "state": "cancelled", "duplicate": True}
    assert await served.ask("POST", "/v1/tasks", json=task(idempotency_key="a")) == (200, known)


async def test_key_whose_task_is_past_its_retention_is_free(served: Served) -> None:
    first, second = task(idempotency_key="a"), task(idempotency_key="a")
    await served.ask("POST", "/v1/tasks", json=first)
    await finish(served.manager.database, [first["id"]])
    await served.manager.database.settle.fetch("DELETE FROM task_history")
    assert (await served.ask("POST", "/v1/tasks", json=second))[0] == 201
