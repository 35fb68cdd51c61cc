"""What a handle says about its task: typed results, and an error for each way to end without one."""

from __future__ import annotations

import pickle
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.errors import (
    ConfigurationError,
    ManagerError,
    ResultExpired,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotCompleted,
    TaskNotFound,
)
from tacoq_protocol.http import ErrorInfo
from tacoq_publisher import Publisher, TaskState, new_task_id
from tests.publisher.scripted_manager import ScriptedManager
from tests.publisher.steps import cut_after_doing, says


class Receipt(BaseModel):
    number: int


def send_call() -> TaskCall[Receipt]:
    return TaskCall("send", "mail", b'{"to":"ann"}', TypeAdapter(Receipt).validate_json)


async def test_a_result_has_the_type_of_the_call(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish(send_call())
    assert manager.accepted[handle.id].queue == "mail"
    await manager.finish(handle.id, result=b'{"number":12}')
    receipt = await handle.result()
    assert receipt.number == 12


async def test_a_result_of_another_type_is_a_validation_error(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish(send_call())
    await manager.finish(handle.id, result=b'{"figure":12}')
    with pytest.raises(ValidationError, match="number"):
        await handle.result()


async def test_a_handle_can_be_made_from_an_id(manager: ScriptedManager, publisher: Publisher) -> None:
    published = await publisher.publish(send_call())
    await manager.finish(published.id, result=b'{"number":12}')
    assert await publisher.handle(str(published.id)).result() == {"number": 12}
    typed = publisher.handle(published.id, kind="send", decode=send_call().decode)
    assert (await typed.result()).number == 12
    assert (typed.kind, publisher.handle(published.id).kind) == ("send", None)


async def test_a_handle_refuses_to_be_pickled_and_says_what_to_do(publisher: Publisher) -> None:
    with pytest.raises(TypeError, match=r"publisher\.handle\(id\)"):
        pickle.dumps(await publisher.publish("add"))


async def test_a_text_that_is_no_id_is_an_error_at_once(publisher: Publisher) -> None:
    with pytest.raises(ConfigurationError, match="'17' is not a task id"):
        publisher.handle("17")
    with pytest.raises(ConfigurationError, match="17 is not a task id"):
        publisher.handle(17)  # type: ignore[call-overload]


async def test_a_failed_task_tells_the_error_of_its_handler(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish("add")
    await manager.finish(handle.id, TaskState.FAILED, error=ErrorInfo("ValueError", "no x", "Traceback …"))
    with pytest.raises(TaskFailed, match=f"task {handle.id} of kind 'add' failed: ValueError: no x") as caught:
        await handle.result()
    error = caught.value
    assert (error.task_id, error.kind, error.error_type) == (handle.id, "add", "ValueError")
    assert (error.error_message, error.traceback) == ("no x", "Traceback …")
    assert (await handle.wait()).state is TaskState.FAILED, "wait() returns however it ended"


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (TaskState.FAILED, TaskFailed, "no error was reported"),
        (TaskState.CANCELLED, TaskCancelled, "was cancelled"),
        (TaskState.EXPIRED, TaskExpired, "its deadline passed before it started"),
    ],
)
async def test_each_way_to_end_without_a_result_has_its_error(
    manager: ScriptedManager,
    publisher: Publisher,
    state: TaskState,
    error: type[TaskNotCompleted],
    message: str,
) -> None:
    handle = await publisher.publish("add")
    await manager.finish(handle.id, state)
    with pytest.raises(error, match=message) as caught:
        await handle.result()
    assert caught.value.task_id == handle.id


async def test_a_result_that_has_expired_is_an_error_and_the_end_is_not(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handle = await publisher.publish("add")
    await manager.finish(handle.id, result=None)
    with pytest.raises(ResultExpired, match=f"result expired: task {handle.id} of kind 'add' completed") as caught:
        await handle.result()
    assert (caught.value.task_id, caught.value.kind) == (handle.id, "add")
    assert not isinstance(caught.value, TaskNotCompleted)
    assert (await handle.wait()).state is TaskState.COMPLETED


async def test_the_reason_of_a_cancel_is_told(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish("add")
    await manager.finish(handle.id, TaskState.CANCELLED, error=ErrorInfo("Cancel", "not needed any more"))
    with pytest.raises(TaskCancelled, match="was cancelled: not needed any more"):
        await handle.result()


async def test_an_unknown_task_is_not_found_by_any_question(publisher: Publisher) -> None:
    handle = publisher.handle(new_task_id())
    for question in (handle.state, handle.view, handle.wait, handle.result, handle.cancel):
        with pytest.raises(TaskNotFound, match=str(handle.id)):
            await question()


async def test_a_task_published_after_it_was_looked_for_is_found(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    mine = new_task_id()
    handle = publisher.handle(mine)
    with pytest.raises(TaskNotFound):
        await handle.wait()
    await publisher.publish("add", task_id=mine)
    await manager.finish(mine, result=b"3")
    assert await handle.result() == 3


async def test_a_404_of_something_else_does_not_say_that_the_task_is_unknown(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handle = await publisher.publish("add")
    manager.script(f"/tasks/{handle.id}", says(b"Not Found", 404))
    with pytest.raises(ManagerError, match="is that the address of a TacoQ manager"):
        await handle.state()


async def test_state_and_view_ask_for_what_is_now(manager: ScriptedManager, publisher: Publisher) -> None:
    handle = await publisher.publish("add", {"x": 1}, priority=4)
    assert await handle.state() is TaskState.PENDING
    await manager.finish(handle.id)
    view = await handle.view(payload=True)
    assert (view.state, view.priority) == (TaskState.COMPLETED, 4)
    assert isinstance(view.payload, msgspec.Raw)
    assert bytes(view.payload) == b'{"x":1}'


async def test_a_cancel_says_what_became_of_the_task(manager: ScriptedManager, publisher: Publisher) -> None:
    waiting, running, completed = [await publisher.publish("add") for _ in range(3)]
    await manager.finish(running.id, TaskState.RUNNING)
    await manager.finish(completed.id)
    assert await waiting.cancel() is TaskState.CANCELLED
    assert await running.cancel() is TaskState.RUNNING
    assert await completed.cancel() is TaskState.COMPLETED


async def test_a_cancel_whose_answer_was_lost_is_cancelled_all_the_same(
    manager: ScriptedManager, publisher: Publisher
) -> None:
    handle = await publisher.publish("add")
    manager.script(f"/tasks/{handle.id}/cancel", cut_after_doing)
    assert await handle.cancel() is TaskState.CANCELLED


async def test_a_handle_shows_its_id_and_kind(publisher: Publisher) -> None:
    handle = publisher.handle(UUID(int=7), kind="add")
    assert repr(handle) == "TaskHandle(00000000-0000-0000-0000-000000000007, kind='add')"
