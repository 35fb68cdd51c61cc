"""A manager that does as it is told: for the faults that a real one cannot be made to show on demand.

It answers the contract's endpoints from memory and keeps a ledger of every request. `script` gives the next
requests of a path a fault each. The real manager is tested with the real publisher in tests/acceptance.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import UNSET

from tacoq_protocol.http import (
    MAX_BODY_BYTES,
    Accepted,
    AcceptedBatch,
    BulkCount,
    BulkDone,
    BulkRequest,
    ErrorInfo,
    NewTask,
    NewTaskBatch,
    TaskPage,
    TaskView,
    UnknownTask,
    WaitRequest,
)
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.states import LIVE, TaskState
from tests.publisher.steps import Handler, Step, cut_off, problem

SESSION = UUID(int=1)
REFUSED_KIND = "refused"  # answered 422, with its index
VAGUE_KIND = "vague"  # makes its batch answered 422, without an index


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    query: str = ""

    @property
    def tasks(self) -> list[NewTask]:
        return msgspec.json.decode(self.body, type=NewTaskBatch).tasks

    @property
    def ids(self) -> list[UUID]:
        return [task.id for task in self.tasks]

    @property
    def waited_for(self) -> set[UUID]:
        return set(msgspec.json.decode(self.body, type=WaitRequest).ids)


@dataclass(eq=False)
class ScriptedManager:
    """`accepted` is in the order of accept, `keys` has the first task of each idempotency key.

    `finish_at_once`: every task completes, its payload is the result.
    """

    finish_at_once: bool = False
    seen: list[Seen] = field(default_factory=list)
    accepted: dict[UUID, NewTask] = field(default_factory=dict)
    views: dict[UUID, TaskView] = field(default_factory=dict)
    keys: dict[str, NewTask] = field(default_factory=dict)
    open_streams: int = 0
    stream_seconds: float | None = None  # end wait streams after that, whatever was asked
    url: str = ""
    loop: asyncio.AbstractEventLoop = field(init=False)
    _port: int = 0
    _steps: dict[str, deque[Step]] = field(default_factory=lambda: defaultdict(deque))
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen: on a free port the first time, on the same one later."""
        self.loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._follow_script])
        app.add_routes(
            [
                web.post("/v1/tasks/batch", self._batch),
                web.post("/v1/tasks/wait", self._wait),
                web.post("/v1/tasks/{action:cancel|retry}", self._bulk),
                web.get("/v1/tasks", self._list),
                web.get("/v1/tasks/{id}", self._view),
                web.get("/v1/tasks/{id}/timeline", self._timeline),
                web.get("/v1/tasks/{id}/why", self._why),
                web.post("/v1/tasks/{id}/cancel", self._cancel),
                web.post("/v1/tasks/{id}/retry", self._retry),
                web.get("/v1/{listing:workers|queues|kinds}", self._listing),
                web.get("/v1/workers/{session}", self._worker),
                web.post("/v1/workers/{action:drain|resume}", self._steer),
                web.post("/v1/workers/{session}/{action:drain|resume}", self._steer),
            ]
        )
        app[_MANAGER] = self
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Close every connection and refuse new ones."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def script(self, path: str, *steps: Step) -> None:
        """Let the next requests for `/v1{path}` take one step each."""
        self._steps[f"/v1{path}"].extend(steps)

    def requests(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == f"/v1{path}"]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at after everything that happens here."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def finish(
        self,
        task_id: UUID,
        state: TaskState = TaskState.COMPLETED,
        result: bytes | None = b"null",
        error: ErrorInfo | None = None,
    ) -> None:
        """Make a task final, and tell those that wait. `result` None: it has expired."""
        view = msgspec.structs.replace(self.views[task_id], state=state, error=error)
        if result is None:
            view = msgspec.structs.replace(view, result_expired=True)
        elif state is TaskState.COMPLETED:
            view = msgspec.structs.replace(view, result=msgspec.Raw(result))
        self.views[task_id] = view
        await self._notify()

    def add(self, task: NewTask) -> None:
        """Accept a task."""
        now = datetime.now(UTC)
        self.accepted[task.id] = task
        view = TaskView(
            id=task.id,
            kind=task.kind,
            queue=task.queue or "default",
            state=TaskState.PENDING,
            priority=task.priority,
            created_at=now,
            run_at=now,
        )
        if self.finish_at_once:
            view = msgspec.structs.replace(view, state=TaskState.COMPLETED, result=task.payload.copy())
        self.views[task.id] = view

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @web.middleware
    async def _follow_script(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        seen = Seen(request.method, request.path, await request.read(), dict(request.headers), request.query_string)
        self.seen.append(seen)
        await self._notify()
        steps = self._steps[request.path]
        step = steps.popleft() if steps else None
        try:
            return await (step(request, lambda: handler(request)) if step else handler(request))
        finally:
            await self._notify()

    async def _batch(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            tasks = msgspec.json.decode(body, type=NewTaskBatch).tasks
        except msgspec.DecodeError as error:
            return problem(422, str(error))
        if len({task.id for task in tasks}) < len(tasks):
            return problem(422, "a task id stands twice in one batch")
        for index, task in enumerate(tasks):
            if task.kind == VAGUE_KIND:
                return problem(422, "something in it is wrong")
            if task.kind == REFUSED_KIND:
                return problem(
                    422,
                    f"task {index} of the batch: kind {task.kind!r} is refused; nothing of the batch was accepted",
                    index=index,
                    pointer="/kind",
                )
            known = self.accepted.get(task.id)
            if known is not None and msgspec.json.encode(known) != msgspec.json.encode(task):
                return problem(409, f"task {task.id} is known with other content", index=index, task_id=task.id)
        answers = []
        for task in tasks:
            first = self.keys.setdefault(task.idempotency_key, task) if task.idempotency_key else task
            duplicate = first.id in self.accepted
            if not duplicate:
                self.add(task)
            differs = bytes(first.payload) != bytes(task.payload)
            answers.append(Accepted(first.id, self.views[first.id].state, duplicate, differs or UNSET))
        return answer(AcceptedBatch(answers), 201)

    async def _wait(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read(), type=WaitRequest)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        self.open_streams += 1
        await self._notify()
        try:
            async with asyncio.timeout(self.stream_seconds or asked.timeout):
                left = list(asked.ids)
                while left:
                    await self.until(partial(self._can_tell_of_any, left))
                    lines = [
                        msgspec.json.encode(self.views.get(id) or UnknownTask(id)) for id in left if self._can_tell(id)
                    ]
                    left = [id for id in left if not self._can_tell(id)]
                    await response.write(b"\n".join(lines) + b"\n\n")  # with an empty keep-alive line
        except TimeoutError:
            pass
        finally:
            self.open_streams -= 1
        return response

    def _can_tell(self, task_id: UUID) -> bool:
        return task_id not in self.views or self.views[task_id].state.final

    def _can_tell_of_any(self, task_ids: list[UUID]) -> bool:
        return any(self._can_tell(task_id) for task_id in task_ids)

    async def _view(self, request: web.Request) -> web.Response:
        view = self.views.get(UUID(request.match_info["id"]))
        if view is None:
            return problem(404, "no such task", task_id=UUID(request.match_info["id"]))
        if "payload" in request.query:
            view = msgspec.structs.replace(view, payload=self.accepted[view.id].payload)
        return answer(view)

    async def _cancel(self, request: web.Request) -> web.Response:
        view = self.views.get(UUID(request.match_info["id"]))
        if view is None:
            return problem(404, "no such task", task_id=UUID(request.match_info["id"]))
        if view.state.final:
            return problem(409, f"it is {view.state} already")
        if view.state is TaskState.RUNNING:
            return answer({"id": view.id, "state": "running", "cancel_requested": True}, 202)
        await self.finish(view.id, TaskState.CANCELLED)
        return answer({"id": view.id, "state": "cancelled", "cancel_requested": False})

    async def _retry(self, request: web.Request) -> web.Response:
        view = self.views.get(UUID(request.match_info["id"]))
        if view is None:
            return problem(404, "no such task", task_id=UUID(request.match_info["id"]))
        if not view.state.final:
            return problem(409, f"it is {view.state}: only a final task can be retried")
        task = msgspec.structs.replace(self.accepted[view.id], id=new_task_id())
        self.add(task)
        return answer(Accepted(task.id, TaskState.PENDING), 201)

    async def _bulk(self, request: web.Request) -> web.Response:
        """Two tasks a page."""
        asked = msgspec.json.decode(await request.read(), type=BulkRequest)
        cancels = request.match_info["action"] == "cancel"
        if asked.filter.state and cancels and asked.filter.state[0].final:
            return problem(422, f"state: a {asked.filter.state[0]} task cannot be cancelled")
        states = LIVE if cancels else {TaskState.FAILED}
        meant = [v for v in self.views.values() if v.state in states and not v.cancel_requested]
        meant = sorted((v for v in meant if asked.filter.kind in (None, v.kind)), key=lambda view: view.id)
        as_of = datetime.now(UTC)
        if asked.most is None:
            return answer(BulkCount(len(meant), as_of, meant[:10]))
        if len(meant) > asked.most:
            return problem(409, "too many")
        page = BulkDone(0, as_of, next=meant[1].id if len(meant) > 1 else None)
        for view in meant[:2]:
            if view.state is TaskState.RUNNING:
                self.views[view.id] = msgspec.structs.replace(view, cancel_requested=True)
                page.requested += 1
            else:
                await self.finish(view.id, TaskState.CANCELLED if cancels else TaskState.EXPIRED)
                page.done += 1
        return answer(page)

    async def _list(self, request: web.Request) -> web.Response:
        wanted = {n: request.query.getall(n) for n in ("kind", "queue", "state") if n in request.query}
        views = [v for v in self.views.values() if all(getattr(v, name) in values for name, values in wanted.items())]
        views = sorted(views, key=lambda view: view.id, reverse=True)
        if "cursor" in request.query:
            views = [view for view in views if view.id < UUID(request.query["cursor"])]
        page = views[: int(request.query.get("limit", 50))]
        return answer(TaskPage(page, str(page[-1].id) if len(page) < len(views) else None))

    async def _timeline(self, request: web.Request) -> web.Response:
        view = self.views.get(UUID(request.match_info["id"]))
        if view is None:
            return problem(404, "no such task", task_id=UUID(request.match_info["id"]))
        return answer({"id": view.id, "events": [{"at": view.created_at, "event": "accepted"}]})

    async def _why(self, request: web.Request) -> web.Response:
        view = self.views.get(UUID(request.match_info["id"]))
        if view is None:
            return problem(404, "no such task", task_id=UUID(request.match_info["id"]))
        about = {"id": view.id, "kind": view.kind, "queue": view.queue, "state": view.state}
        if view.state.final:
            return answer(about | {"reason": view.state, "sentence": "it is over"})
        return answer(about | {"reason": "no_slot", "sentence": "no slot is free \x1b", "position": 3})

    async def _worker(self, request: web.Request) -> web.Response:
        if UUID(request.match_info["session"]) != SESSION:
            return problem(404, "no such worker")
        run = {"id": UUID(int=9), "kind": "add", "state": "running", "release": 2, "attempt": 1, "started_at": None}
        return answer(worker("live") | {"running": [run]})

    async def _steer(self, request: web.Request) -> web.Response:
        if UUID(request.match_info.get("session", str(SESSION))) != SESSION:
            return problem(404, "no such worker")
        return answer({"workers": [worker("draining" if request.match_info["action"] == "drain" else "live")]})

    async def _listing(self, request: web.Request) -> web.Response:
        now = datetime.now(UTC)
        queue = {"name": "default", "scheduled": 0, "pending": 2, "queued": 1, "running": 1}
        queue |= {"workers": 1, "slots": 8, "credit": 6}
        kind = {"name": "add", "queue": "default", "max_attempts": 3, "timeout": 30.0, "on_lost": "retry"}
        kind |= {"payload_schema": {}, "result_schema": {}, "seen_at": now}
        name = request.match_info["listing"]
        return answer({name: [{"workers": worker("live"), "queues": queue, "kinds": kind}[name]]})


def worker(state: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    about = {"session": SESSION, "queue": "default", "state": state, "host": "alpha", "pid": 17, "slots": 8, "held": 3}
    return about | {"kinds": ["add"], "version": "0.1.0", "started_at": now, "seen_at": now, "rss_bytes": 50_000_000}


def answer(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def stream_cut_after(lines: int) -> Step:
    """Break a wait stream that has told of so many tasks, in the middle of the next line."""

    async def step(request: web.Request, handler: Handler) -> web.StreamResponse:
        manager = request.app[_MANAGER]
        asked = msgspec.json.decode(await request.read(), type=WaitRequest)
        response = web.StreamResponse()
        await response.prepare(request)
        encoded = [msgspec.json.encode(manager.views[id]) for id in asked.ids]
        await response.write(b"".join(line + b"\n" for line in encoded[:lines]) + encoded[lines][:20])
        return cut_off(request, response)

    return step


@asynccontextmanager
async def running_manager(**options: Any) -> AsyncIterator[ScriptedManager]:
    """Run one on this loop."""
    manager = ScriptedManager(**options)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop()


@contextmanager
def manager_in_a_thread(**options: Any) -> Iterator[ScriptedManager]:
    """Run one on a loop of its own, for tests without one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = running_manager(**options)
    try:
        yield asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


_MANAGER = web.AppKey("manager", ScriptedManager)
