"""Around the tasks: workers, queues, kinds, health, metrics, docs, the key, and errors of every sort as problems."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Coroutine
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from scripts.services import PrivatePostgres
from tacoq_manager.api.docs import _MODELS
from tacoq_manager.store import registry
from tacoq_protocol import codec
from tacoq_protocol.broker import Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker
from tacoq_protocol.http import ErrorInfo, TaskFilter
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Heartbeat, KindSpec, Leave, Register
from tacoq_protocol.messages import Presence as PresenceMessage
from tests.manager.serving import Served, serving
from tests.support import eventually

STARTED = datetime(2030, 1, 1, tzinfo=UTC)
SPEC = KindSpec("add", max_attempts=5, timeout=2.5, payload_schema=b'{"type":"object"}', result_schema=b"nonsense")


async def say(served: Served, *messages: PresenceMessage) -> None:
    """As a worker: on the presence exchange."""
    broker = MemoryBroker(served.hub, "worker")
    await broker.start()
    exchange = served.manager.topology.presence.name
    outgoing = [Outgoing(exchange, "", codec.PRESENCE.name, codec.encode(message)) for message in messages]
    await broker.publish(outgoing, seconds=5)
    await broker.stop()


async def test_workers_are_listed_live_ones_first(served: Served) -> None:
    gone, here = uuid4(), uuid4()
    for session in (gone, here):
        await say(served, Register(session, "default", 4, [SPEC], "h", "host", 7, "0.1", STARTED))
    await say(served, Heartbeat(here, "default", 8, 3, [], "h", "0.1", draining=True, rss_bytes=5))
    await say(served, Leave(gone, "default"))

    async def both() -> list[dict[str, Any]]:
        _, answer = await served.ask("GET", "/v1/workers?ended=true")
        workers: list[dict[str, Any]] = answer["workers"]
        assert [worker["state"] for worker in workers] == ["draining", "left"]
        return workers

    live, ended = await eventually(both)
    assert (live["session"], live["slots"], live["held"], live["rss_bytes"]) == (str(here), 8, 3, 5)
    assert (live["kinds"], live["host"], live["pid"]) == (["add"], "host", 7)
    assert ended["session"] == str(gone)
    _, answer = await served.ask("GET", "/v1/workers")
    assert [worker["session"] for worker in answer["workers"]] == [str(here)]


async def test_queues_show_their_tasks_and_workers(served: Served) -> None:
    await served.publish(queue="slow")
    await say(served, Register(uuid4(), "default", 4, [SPEC], "h", "host", 7, "0.1", STARTED))

    async def both() -> dict[str, Any]:
        _, answer = await served.ask("GET", "/v1/queues")
        queues = {queue["name"]: queue for queue in answer["queues"]}
        assert set(queues) == {"default", "slow"}
        assert queues["default"]["slots"] == 4
        return queues

    queues = await eventually(both)
    assert (queues["slow"]["pending"], queues["slow"]["workers"]) == (1, 0)
    assert (queues["default"]["workers"], queues["default"]["slots"], queues["default"]["credit"]) == (1, 4, 4)


async def test_kinds_show_their_policy_and_schemas(served: Served) -> None:
    worker = Register(uuid4(), "default", 4, [SPEC], "h", "host", 7, "0.1", STARTED)
    await registry.register(served.manager.database, [worker])
    _, answer = await served.ask("GET", "/v1/kinds")
    (kind,) = answer["kinds"]
    assert (kind["name"], kind["queue"], kind["max_attempts"], kind["timeout"]) == ("add", "default", 5, 2.5)
    assert (kind["payload_schema"], kind["result_schema"]) == ({"type": "object"}, {})


async def test_health_is_about_accepting(served: Served) -> None:
    assert await served.ask("GET", "/livez") == (200, {"status": "live"})
    await served.manager.broker.wait_open(5)
    ready = {"status": "ready", "version": version("tacoq-manager"), "database": "open", "broker": "open"}
    assert await served.ask("GET", "/readyz") == (200, ready)
    served.hub.go_down()
    await eventually(lambda: served.manager.broker.state == "closed")
    assert await served.ask("GET", "/readyz") == (200, ready | {"broker": "closed"})


async def test_not_ready_on_another_schema_or_while_stopping(served: Served, database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    status, problem = await served.ask("GET", "/readyz")
    assert status == 503
    assert "upgrade tacoq-manager" in problem["detail"]
    await connection.execute("DELETE FROM alembic_version")
    assert "run: tacoq migrate" in (await served.ask("GET", "/readyz"))[1]["detail"]
    await connection.close()
    served.manager.waiters.release()
    assert "stopping" in (await served.ask("GET", "/readyz"))[1]["detail"]


async def test_while_postgres_is_away_everything_is_503_with_retry_after_and_then_works_again(
    private_postgres: PrivatePostgres, private_database: str
) -> None:
    async with serving(private_database) as served:
        before = await served.publish()
        private_postgres.stop()
        new = {"id": str(new_task_id()), "kind": "add"}
        for method, path, options in (
            ("GET", "/readyz", {}),
            ("POST", "/v1/tasks", {"json": new}),
            ("GET", f"/v1/tasks/{before}", {}),
            ("GET", f"/v1/tasks/{new_task_id()}?wait=30", {}),  # of `before` it is known that it is live
            ("POST", "/v1/tasks/wait", {"json": {"ids": [str(new_task_id())]}}),
            ("GET", "/v1/tasks", {}),
            ("POST", f"/v1/tasks/{before}/cancel", {}),
            ("POST", "/v1/tasks/cancel", {"json": {"filter": {"kind": "add"}}}),
            ("POST", "/v1/tasks/retry", {"json": {"filter": {"kind": "add"}, "most": 1}}),
            ("GET", "/v1/workers", {}),
            ("GET", "/v1/kinds", {}),
            ("GET", "/v1/queues", {}),
        ):
            async with served.http.request(method, path, **options) as response:
                problem = await response.json(content_type="application/problem+json")
                assert (response.status, response.headers["Retry-After"]) == (503, "1"), (path, problem)
                assert "Postgres" in problem["detail"], (path, problem)
        assert await served.ask("GET", "/livez") == (200, {"status": "live"})
        private_postgres.start()

        async def back() -> bool:
            return (await served.ask("POST", "/v1/tasks", json=new))[0] in (200, 201)

        await eventually(back, 30)
        assert (await served.ask("GET", f"/v1/tasks/{before}"))[1]["state"] == "pending"


async def test_a_search_ends_with_who_asked_for_it_and_readiness_does_not_wait(served: Served) -> None:
    """Searches stand before a table that is locked; whoever asked for them goes away."""
    database = served.manager.database

    async def searching() -> int:
        rows = await database.read.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%task_history%' "
            "AND wait_event_type = 'Lock'"
        )
        return len(rows)

    async with database.engine.connect() as connection, connection.begin():
        await connection.execute(text("LOCK TABLE task_history"))
        asked = [asyncio.create_task(served.ask("GET", "/v1/tasks?state=failed")) for _ in range(8)]
        await eventually(lambda: _is(searching(), 2))
        assert (await served.ask("GET", "/readyz"))[0] == 200
        for task in asked:
            task.cancel()
        await eventually(lambda: _is(searching(), 0))


async def _is(count: Coroutine[Any, Any, int], wanted: int) -> bool:
    return await count == wanted


async def test_stats_tell_what_ended_and_refuse_what_is_not_kept(served: Served) -> None:
    task_id = await served.publish()
    await served.ask("POST", f"/v1/tasks/{task_id}/cancel")
    await served.manager.stats.step()
    _, stats = await served.ask("GET", "/v1/stats?minutes=2&queue=default")
    assert [minute["cancelled"] for minute in stats["minutes"]] == [1]
    assert [(kind["kind"], kind["cancelled"]) for kind in stats["kinds"]] == [("add", 1)]
    for query in ("minutes=0", "minutes=1441", "minutes=many", "kind=%00", "queue=a%2Fb"):
        status, problem = await served.ask("GET", f"/v1/stats?{query}")
        assert status == 422
        assert query.partition("=")[0] in problem["detail"]


async def test_metrics_count_batches(served: Served) -> None:
    task_id = await served.publish()
    await served.ask("POST", f"/v1/tasks/{task_id}/cancel")
    async with served.http.get("/metrics") as response:
        assert response.content_type == "text/plain"
        metrics = dict(re.findall(r"^([^#\s]+) (\S+)$", await response.text(), re.MULTILINE))
    assert metrics["tacoq_tasks_accepted_total"] == "1.0"
    assert metrics['tacoq_tasks_final_total{kind="add",queue="default",state="cancelled"}'] == "1.0"
    assert metrics['tacoq_moves_total{move="cancel"}'] == "1.0"
    assert metrics["tacoq_leases_past_expiry"] == "0.0"
    assert metrics['tacoq_batch_size_count{statement="accept"}'] == "1.0"


async def test_the_docs_name_every_route_and_every_reference_leads_somewhere(served: Served) -> None:
    async with served.http.get("/docs") as response:
        assert response.status == 200
    _, document = await served.ask("GET", "/openapi.json")
    assert set(document["paths"]["/v1/tasks"]) == {"get", "post"}
    assert {"/v1/tasks/batch", "/v1/tasks/wait", "/v1/tasks/{task_id}", "/v1/queues"} <= set(document["paths"])
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(schemas)
    assert schemas["NewTask"]["properties"]["priority"]["maximum"] == 9
    assert [name for name, schema in schemas.items() if "\n    " in schema.get("description", "")] == []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "default" in operation["responses"], (method, path)


async def test_the_docs_describe_every_field_of_a_task(served: Served) -> None:
    _, document = await served.ask("GET", "/openapi.json")
    schemas = document["components"]["schemas"]
    described = {
        (model.__name__, name): schemas[model.__name__]["properties"][name].get("description")
        for model in (*_MODELS, ErrorInfo, TaskFilter)
        for name in model.__struct_fields__
    }
    assert [field for field, text in described.items() if not text] == []
    assert described["NewTask", "queue"] == '`queue` left out: the queue whose workers know the kind, else "default"'
    assert described["NewTask", "run_at"] == (
        "It runs after `delay` or at `run_at`, and is dropped when it has not started after `expires_in` or at "
        "`expires_at`; `run_at` and `expires_at` are moments with an offset"
    )


async def test_unknown_routes_and_methods_are_problems(served: Served) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("GET", "/v1/task", 404),
        ("PUT", "/v1/queues", 405),
        ("DELETE", f"/v1/tasks/{new_task_id()}", 405),
    ):
        found, problem = await served.ask(method, path)
        assert found == status
        assert path in problem["detail"]


async def test_an_error_of_our_own_is_500_without_its_insides(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("the secret insides")

    monkeypatch.setattr(served.manager, "credit_left", broken)
    with caplog.at_level(logging.ERROR):
        status, problem = await served.ask("GET", "/v1/queues")
    assert status == 500
    assert "insides" not in json.dumps(problem)
    assert "the secret insides" in caplog.text


async def test_so_is_one_of_the_doors_that_pass_by_fastapi(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("the secret insides")

    monkeypatch.setattr(served.manager.accepter, "accept", broken)
    with caplog.at_level(logging.ERROR):
        status, problem = await served.ask("POST", "/v1/tasks", json={"id": str(new_task_id()), "kind": "add"})
    assert status == 500
    assert "insides" not in json.dumps(problem)
    assert "the secret insides" in caplog.text


async def test_with_a_key_set_only_health_is_open(database: str) -> None:
    async with serving(database, api_key="geheim") as served:
        for path in ("/livez", "/readyz"):
            assert (await served.ask("GET", path))[0] == 200
        for header in (None, "Bearer wrong", "geheim", "Basic geheim", "Bearer geheimX", "Bearer é"):
            headers = {"Authorization": header} if header else {}
            for path in ("/v1/tasks", "/metrics", "/docs", "/openapi.json", "/nowhere"):
                async with served.http.get(path, headers=headers) as response:
                    assert response.status == 401
                    assert response.headers["WWW-Authenticate"] == "Bearer"
                    assert response.content_type == "application/problem+json"
        key = {"Authorization": "Bearer geheim"}
        assert (await served.ask("GET", "/v1/tasks", headers=key))[0] == 200
        assert (await served.ask("POST", "/v1/tasks", headers=key, json={"id": "x"}))[0] == 422


async def test_name_that_was_made_to_lead_here_is_not_answered_to(database: str) -> None:
    """DNS rebinding: to a browser the page of such a name has this manager's origin, and may read, too."""
    foreign = ("example.com", "example.com:3000", "127.0.0.1.example.com", "localhost.example.com", "[::1", "a b")
    own = ("localhost", "localhost:3000", "tacoq.localhost", "127.0.0.1:1", "[::1]:3000")

    async def status(served: Served, host: str, path: str = "/v1/queues", **headers: str) -> int:
        return (await served.ask("GET", path, headers={"Host": host, **headers}))[0]

    async with serving(database) as served:
        assert {host: await status(served, host) for host in foreign} == dict.fromkeys(foreign, 403)
        assert {host: await status(served, host) for host in own} == dict.fromkeys(own, 200)
        assert await status(served, "example.com", "/livez") == 200
    async with serving(database, host="0.0.0.0") as served:
        assert await status(served, "manager:3000") == 200, "others reach it by whatever name it has there"
    async with serving(database, api_key="geheim") as served:
        assert await status(served, "example.com", Authorization="Bearer geheim") == 200


async def test_foreign_web_page_can_read_nothing_and_change_nothing(database: str) -> None:
    """Without a key. Browsers keep answers from it by themselves; what only acts has to be refused here."""
    new = {"id": str(new_task_id()), "kind": "add"}
    async with serving(database) as served:
        for origin in ("https://example.com", "null", "http://localhost:1", f"{served.server.url}.example.com"):
            for method, path in (("POST", "/v1/tasks"), ("DELETE", "/v1/schedules/nightly"), ("PUT", "/nowhere")):
                status, problem = await served.ask(method, path, headers={"Origin": origin}, json=new)
                assert (status, origin in problem["detail"]) == (403, True)
        own = {"Origin": served.server.url}
        assert (await served.ask("POST", "/v1/tasks", headers=own, json=new))[0] == 201
        assert (await served.ask("GET", "/v1/tasks", headers={"Origin": "https://example.com"}))[0] == 200
    async with serving(database, api_key="geheim") as served:
        key = {"Authorization": "Bearer geheim", "Origin": "https://example.com"}
        assert (await served.ask("POST", "/v1/tasks", headers=key, json=new))[0] == 200
