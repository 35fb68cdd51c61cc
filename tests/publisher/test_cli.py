"""The commands, as people and scripts use them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from tacoq_protocol.cli import tacoq
from tacoq_protocol.errors import (
    ConfigurationError,
    FilterRefused,
    ManagerUnavailable,
    TaskConflict,
    TaskFailed,
    TaskNotFound,
    TooManyMeant,
    WorkerNotFound,
)
from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.states import TaskState
from tacoq_publisher import cli, new_task_id
from tacoq_publisher.cli import many
from tests.publisher.scripted_manager import SESSION, ScriptedManager, manager_in_a_thread
from tests.publisher.steps import busy, says


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedManager]:
    with manager_in_a_thread(finish_at_once=True) as manager:
        monkeypatch.setenv("TACOQ_MANAGER_URL", manager.url)
        yield manager


def run(*args: str, stdin: str | None = None) -> Result:
    """Run `tacoq …`; errors of ours come out as themselves, as the console script's `main` gets them."""
    result = CliRunner().invoke(tacoq, args, input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeeds(*args: str, stdin: str | None = None) -> str:
    result = run(*args, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def published(manager: ScriptedManager, state: TaskState = TaskState.COMPLETED, **more: Any) -> UUID:
    """Return the id of a task in this state."""
    task_id = UUID(succeeds("publish", "add", '{"x": 1}').strip())
    asyncio.run_coroutine_threadsafe(manager.finish(task_id, state, **more), manager.loop).result()
    return task_id


def test_every_command_is_an_entry_point() -> None:
    mine = {p.name: p for p in entry_points(group="tacoq.commands") if p.value.startswith("tacoq_publisher.")}
    assert sorted(mine) == sorted(cli.__all__)
    for name, point in mine.items():
        command = point.load()
        assert isinstance(command, click.Command)
        assert command.name == name
        assert ("--json" in succeeds(name, "--help")) is (name != "outbox"), "all that print"


def test_outbox_without_a_database_says_how_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TACOQ_OUTBOX_URL", raising=False)
    with pytest.raises(ConfigurationError, match="TACOQ_OUTBOX_URL or as --database"):
        run("outbox")


@pytest.mark.parametrize("group", ["", "queues", "kinds", "workers", "schedules"])
def test_each_command_is_listed_by_a_whole_sentence(group: str) -> None:
    listed = succeeds(*group.split(), "--help").split("Commands:\n")[1].splitlines()
    assert listed
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


def test_publish_prints_the_id(manager: ScriptedManager) -> None:
    task_id = UUID(succeeds("publish", "add", '{"x": [1, 2.5, "ä"]}').strip())
    assert json.loads(bytes(manager.accepted[task_id].payload)) == {"x": [1, 2.5, "ä"]}
    assert json.loads(succeeds("publish", "add", "--json"))["kind"] == "add"
    assert bytes(list(manager.accepted.values())[-1].payload) == b"null"


def test_publish_passes_every_option_on(manager: ScriptedManager) -> None:
    mine = str(new_task_id())
    options = "--queue sums --priority 7 --delay 1h30m --expires 90 --max-attempts 4 --timeout 2.5"
    assert succeeds("publish", "add", "1", "--id", mine, *options.split()).strip() == mine
    task = manager.accepted[UUID(mine)]
    assert (task.queue, task.priority, task.delay, task.expires_in) == ("sums", 7, 5400.0, 90.0)
    assert (task.max_attempts, task.timeout) == (4, 2.5)
    noon = datetime(2030, 1, 31, 12, tzinfo=UTC)
    task_id = UUID(
        succeeds("publish", "add", "--run-at", "2030-01-31T12:00:00Z", "--expires", "2030-01-31T13:00+01:00").strip()
    )
    assert (manager.accepted[task_id].run_at, manager.accepted[task_id].expires_at) == (noon, noon)


def test_publish_reads_a_payload_from_the_standard_input(manager: ScriptedManager) -> None:
    assert succeeds("publish", "add", "-", "--wait", stdin='{"long": true}\n') == '{"long":true}\n'


def test_publish_and_wait_prints_the_result(manager: ScriptedManager) -> None:
    assert succeeds("publish", "add", "[1,2]", "--wait") == "[1,2]\n"
    view = json.loads(succeeds("publish", "add", "3", "--wait", "--json"))
    assert (view["state"], view["result"]) == ("completed", 3)


def test_publish_and_wait_for_a_task_that_fails_is_an_error(manager: ScriptedManager) -> None:
    task_id = published(manager, TaskState.FAILED, error=ErrorInfo("ValueError", "no"))
    with pytest.raises(TaskFailed, match="ValueError: no"):
        run("publish", "add", '{"x": 1}', "--wait", "--id", str(task_id))


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["ps", "--url", "nowhere"], ConfigurationError, "TACOQ_MANAGER_URL"),
        (["ps", "--url", "http://127.0.0.1:9"], ManagerUnavailable, "cannot connect"),
        (["show", str(UUID(int=7))], TaskNotFound, "no task has the id"),
        (["why", str(UUID(int=7))], TaskNotFound, "no task has the id"),
        (["cancel", str(UUID(int=7))], TaskNotFound, "no task has the id"),
        (["retry", str(UUID(int=7))], TaskNotFound, "no task has the id"),
    ],
)
def test_an_error_of_ours(manager: ScriptedManager, args: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(*args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["publish"], "Missing argument 'KIND'"),
        (["publish", "add", "{x: 1}"], "the payload is not JSON"),
        (["publish", "add", "NaN"], "NaN is none of its numbers"),
        (["publish", "a b"], "'a b' is not a kind"),
        (["publish", "add", "--priority", "12"], "priority = 12 is not a whole number from 0 to 9"),
        (["publish", "add", "--max-attempts", "0"], "max_attempts = 0 is not a whole number from 1 to 1,000"),
        (["publish", "add", "--queue", "a b"], "queue = 'a b' is not a queue's name"),
        (["publish", "add", "--on-conflict", "reject"], "give unique, too"),
        (["publish", "add", "--id", "00000000-0000-4000-8000-000000000000"], "not a UUIDv7"),
        (["publish", "add", "--delay", "soon"], "'soon' is not a duration"),
        (["publish", "add", "--expires", "2030-01-31T12:00:00"], "has no offset"),
        (["publish", "add", "--run-at", "tomorrow"], "'tomorrow' is not a time"),
        (["publish", "add", "--priorty", "1"], "No such option"),
        (["show", "17"], "'17' is not a task id"),
        (["workers", "drain"], "give a SESSION, or --queue or --host"),
        (["workers", "resume", str(UUID(int=7)), "--queue", "slow"], "give a SESSION, or --queue or --host"),
        (["workers", "show", "alpha"], "'alpha' is not a session"),
        (["cancel"], "give the ID of a task, or say which tasks"),
        (["retry"], "give the ID of a task, or say which tasks"),
        (["retry", str(UUID(int=7)), "--kind", "add"], "not both"),
        (["cancel", "--created-before", "yesterday"], "'yesterday' is not a duration"),
        (["schedules", "--json", "pause", "nightly"], "put --url and --json after pause"),
        (["schedules", "rm", "a/b"], "'a/b' is not a schedule's name"),
        (["schedules", "add", "nightly", "add", "0 3 * * *", "--missed", "never"], "'never' is not one of"),
        (["ps", "--state", "lost"], "'lost' is not one of"),
        (["ps", "--cursor", "2"], "'2' is not a task id"),
        (["queues", "limit", "mail", "--rate", "100"], "--rate: '100' is not a rate: give one like \"100/s\""),
        (["queues", "limit", "mail", "--concurrency", "0"], "--concurrency: Input should be greater than"),
        (["queues", "limit", "mail", "--weight", "big=0"], "--weight: Input should be greater than"),
        (["kinds", "limit", "add", "--rate-per-key", "0/s"], "--rate-per-key: '0/s' is not a rate"),
        (["kinds", "limit", "add", "--max-per-key", "few"], "--max-per-key: Input should be a valid integer"),
    ],
)
def test_an_error_of_use(args: list[str], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_ps_lists_tasks_newest_first(manager: ScriptedManager) -> None:
    assert succeeds("ps") == "no tasks\n"
    ids = [published(manager) for _ in range(2)] + [
        published(manager, TaskState.FAILED, error=ErrorInfo("OSError", "disk\nfull " + "x" * 60))
    ]
    heading, *lines = succeeds("ps").splitlines()
    assert heading.split() == ["ID", "KIND", "QUEUE", "STATE", "PRIORITY", "ATTEMPT", "CREATED", "ERROR"]
    assert [line.split()[0] for line in lines] == [str(id) for id in reversed(ids)]
    assert lines[0].split()[1:4] == ["add", "default", "failed"]
    assert lines[0].endswith(f"OSError: disk full {'x' * 50}…")
    assert len(set(map(len, [line.split("OSError")[0].rstrip() for line in lines]))) == 1


def test_ps_filters_and_pages(manager: ScriptedManager) -> None:
    done, failed = published(manager), published(manager, TaskState.FAILED)
    page = json.loads(succeeds("ps", "--json", "--state", "failed", "--kind", "add", "--queue", "default"))
    assert [task["id"] for task in page["tasks"]] == [str(failed)]
    both = json.loads(succeeds("ps", "--json", "--state", "failed", "--state", "completed"))
    assert [task["id"] for task in both["tasks"]] == [str(failed), str(done)]
    succeeds("ps", "--created-after", "1h", "--created-before", "2030-01-31T12:00:00Z", "--error", "Time out")
    query = parse_qs(manager.requests("/tasks")[-1].query)
    assert (query["created_before"], query["error"]) == (["2030-01-31T12:00:00Z"], ["Time out"])
    assert timedelta(0) < datetime.now(UTC) - datetime.fromisoformat(query["created_after"][0]) < timedelta(hours=2)
    result = run("ps", "--limit", "1")
    assert result.stderr == f"there are more: add --cursor {failed}\n"
    assert str(done) in succeeds("ps", "--limit", "1", "--cursor", str(failed))


def test_show_tells_all_there_is(manager: ScriptedManager) -> None:
    error = ErrorInfo("ValueError", "no\x1b[31m", "Traceback (most recent call last):\n  ValueError: no\n")
    task_id = published(manager, TaskState.FAILED, error=error)
    shown = succeeds("show", str(task_id))
    for part in (str(task_id), "failed", '{"x":1}', "ValueError: no", "Traceback (most recent", "accepted"):
        assert part in shown
    assert "\x1b" not in shown
    fields = json.loads(succeeds("show", str(task_id), "--json"))
    assert (fields["payload"], fields["error"]["type"]) == ({"x": 1}, "ValueError")
    assert [event["event"] for event in fields["events"]] == ["accepted"]
    shown = succeeds("show", str(published(manager, result=b'{"sum":3}')), "--json")
    assert json.loads(shown)["result"] == {"sum": 3}
    assert "expired" not in shown


def test_show_says_that_a_result_has_expired(manager: ScriptedManager) -> None:
    task_id = published(manager, result=None)
    assert "result            expired: it was kept for a time, and is gone" in succeeds("show", str(task_id))
    assert json.loads(succeeds("show", str(task_id), "--json"))["result_expired"] is True


def test_why_says_it_in_a_line(manager: ScriptedManager) -> None:
    task_id = published(manager, TaskState.PENDING)
    assert succeeds("why", str(task_id)) == "pending, no_slot: no slot is free \ufffd\n"
    fields = json.loads(succeeds("why", str(task_id), "--json"))
    assert (fields["reason"], fields["position"]) == ("no_slot", 3)
    assert "until" not in fields
    ended = succeeds("why", str(published(manager, TaskState.FAILED)))
    assert ended.startswith("failed: ")


def test_cancel(manager: ScriptedManager) -> None:
    waiting, running, done = (
        published(manager, s) for s in (TaskState.PENDING, TaskState.RUNNING, TaskState.COMPLETED)
    )
    assert succeeds("cancel", str(waiting)) == f"{waiting} is cancelled\n"
    assert succeeds("cancel", str(waiting)) == f"{waiting} is cancelled\n"
    assert succeeds("cancel", str(running)) == f"{running} is running: its workers are asked to stop it\n"
    assert json.loads(succeeds("cancel", str(running), "--json"))["cancel_requested"] is True
    with pytest.raises(TaskConflict, match="is completed already: nothing is left to cancel"):
        run("cancel", str(done))


def test_retry_prints_the_id_of_the_new_task(manager: ScriptedManager) -> None:
    failed = published(manager, TaskState.FAILED)
    again = UUID(succeeds("retry", str(failed)).strip())
    assert again != failed
    assert again in manager.accepted
    assert json.loads(succeeds("retry", str(failed), "--json"))["id"] != str(failed)
    with pytest.raises(TaskConflict, match="only a final task can be retried"):
        run("retry", str(published(manager, TaskState.PENDING)))


def test_cancel_of_many_shows_them_first(manager: ScriptedManager) -> None:
    waiting = [published(manager, TaskState.PENDING) for _ in range(4)]
    running = published(manager, TaskState.RUNNING)
    published(manager)
    result = run("cancel", "--kind", "add")
    assert result.exit_code == 2
    assert result.stdout.startswith("to be cancelled: 5 tasks\n")
    assert all(str(id) in result.stdout for id in [*waiting, running])
    assert "nothing was done: add --yes" in result.stderr
    assert json.loads(succeeds("cancel", "--kind", "add", "--json"))["count"] == 5
    assert manager.views[waiting[0]].state is TaskState.PENDING
    printed = succeeds("cancel", "--kind", "add", "--yes")
    assert printed.endswith("cancelled: 4; the workers of 1 more are asked to stop them\n")
    assert {manager.views[id].state for id in waiting} == {TaskState.CANCELLED}
    assert succeeds("cancel", "--kind", "add", "--yes") == "to be cancelled: 0 tasks\n"
    assert json.loads(succeeds("cancel", "--kind", "add", "--yes", "--json")) == {"done": 0, "requested": 0}


def test_retry_of_many_asks_on_a_terminal(manager: ScriptedManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "on_terminal", lambda: True)
    failed = [published(manager, TaskState.FAILED, error=ErrorInfo("OSError", "x")) for _ in range(3)]
    declined = run("retry", "--error", "x", stdin="n\n")
    assert declined.exit_code == 1
    assert "OSError" in declined.stdout
    assert {manager.views[id].state for id in failed} == {TaskState.FAILED}
    assert run("retry", "--error", "x", stdin="y\n").stdout.endswith("retried: 3\n")


def test_many_that_became_more_since_they_were_counted_are_left_alone(manager: ScriptedManager) -> None:
    published(manager, TaskState.PENDING)
    count = msgspec.json.encode({"count": 0, "as_of": datetime.now(UTC), "sample": []})
    manager.script("/tasks/cancel", says(count))
    published(manager, TaskState.PENDING)
    with pytest.raises(TooManyMeant, match="more than 1 tasks are meant; nothing was done"):
        run("cancel", "--kind", "add", "--yes", "--json")
    with pytest.raises(FilterRefused, match="a failed task cannot be cancelled"):
        run("cancel", "--state", "failed")


def test_retry_is_not_sent_twice(manager: ScriptedManager) -> None:
    """The manager makes the new id: a second request would be a second task."""
    failed = published(manager, TaskState.FAILED)
    manager.script(f"/tasks/{failed}/retry", busy())
    with pytest.raises(ManagerUnavailable, match="it may have been done nevertheless"):
        run("retry", str(failed))
    assert len(manager.requests(f"/tasks/{failed}/retry")) == 1


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        ("workers", ["SESSION", "default", "live", "alpha", "17", "48 MiB", "add"]),
        ("queues", ["QUEUE", "default", "8", "6"]),
        ("kinds", ["KIND", "add", "default", "30 s", "retry"]),
    ],
)
def test_a_listing(manager: ScriptedManager, listing: str, words: list[str]) -> None:
    printed = succeeds(listing)
    assert all(word in printed for word in words), printed
    assert len(json.loads(succeeds(listing, "--json"))[listing]) == 1
    manager.script(f"/{listing}", says(msgspec.json.encode({listing: []})))
    assert succeeds(listing).startswith(f"no {listing}")


def test_workers_that_ended_are_listed_when_they_are_asked_for(manager: ScriptedManager) -> None:
    succeeds("workers")
    succeeds("workers", "--all")
    assert [seen.query for seen in manager.requests("/workers")] == ["", "ended=true"]


def test_workers_with_many_kinds_are_listed_by_a_few_of_them(manager: ScriptedManager) -> None:
    found = json.loads(succeeds("workers", "--json"))
    for count, ending in ((1, " kind0"), (3, " kind0, kind1, kind2"), (4, " kind0, kind1, 2 more"), (80, ", 78 more")):
        found["workers"][0]["kinds"] = [f"kind{number}" for number in range(count)]
        manager.script("/workers", says(msgspec.json.encode(found)))
        assert succeeds("workers").endswith(f"{ending}\n")


def test_workers_show_tells_what_runs_there(manager: ScriptedManager) -> None:
    shown = succeeds("workers", "show", str(SESSION))
    for part in (str(SESSION), "alpha", "48 MiB", str(UUID(int=9)), "add"):
        assert part in shown
    assert json.loads(succeeds("workers", "show", str(SESSION), "--json"))["running"][0]["release"] == 2
    with pytest.raises(WorkerNotFound, match="no live worker session has the id"):
        run("workers", "show", str(UUID(int=2)))


def test_workers_drain_and_resume(manager: ScriptedManager) -> None:
    path = f"/workers/{SESSION}"
    assert "draining" in succeeds("workers", "drain", str(SESSION), "--leave")
    assert json.loads(manager.requests(f"{path}/drain")[0].body) == {"leave": True}
    assert json.loads(succeeds("workers", "resume", str(SESSION), "--json"))["workers"][0]["state"] == "live"
    succeeds("workers", "drain", "--host", "alpha")
    succeeds("workers", "resume", "--queue", "default", "--host", "alpha")
    assert json.loads(manager.requests("/workers/drain")[0].body) == {"queue": None, "host": "alpha", "leave": False}
    assert json.loads(manager.requests("/workers/resume")[0].body) == {"queue": "default", "host": "alpha"}
    with pytest.raises(WorkerNotFound):
        run("workers", "drain", str(UUID(int=2)))


def test_in_a_process_of_its_own(manager: ScriptedManager) -> None:
    def tacoq(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from tacoq_protocol.cli import main; main()", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)

    done = tacoq("publish", "add", '{"x": 2}', "--wait")
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"x":2}\n', "")
    failed = tacoq("show", str(UUID(int=7)))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("tacoq: no task has the id")
    assert failed.stderr.count("\n") == 1
    away = tacoq("queues", "--url", "http://127.0.0.1:9")
    assert away.returncode == 1
    assert away.stderr.startswith("tacoq: the manager at http://127.0.0.1:9 was not available")
    assert away.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("queues", "limit", "default"), "say what limits it: --concurrency"),
        (("queues", "limit", "default", "--weight", "big"), "'big' is not a weight: give KEY=N"),
        (("queues", "limit", "default", "--rate", "often"), "--rate: 'often' is not a rate"),
        (("queues", "limit", "default", "--concurrency", "0"), "--concurrency: Input should be greater than"),
        (("kinds", "limit", "add"), "say what limits it: --concurrency"),
        (("kinds", "limit", "add", "--rate-per-key", "5"), "--rate-per-key: '5' is not a rate"),
        (("kinds", "--json", "limit", "add", "--concurrency", "1"), "put --url and --json after limit"),
    ],
)
def test_limit_that_is_none_is_named(manager: ScriptedManager, args: tuple[str, ...], words: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert words in result.output
