"""A worker with two handlers. Run it with `tacoq dev hello:worker`, or `tacoq worker hello:worker` beside a manager.

Then: `tacoq publish add '{"x": 2, "y": 3}' --wait`.
"""

from __future__ import annotations

from pydantic import BaseModel

from tacoq_worker import Backoff, Context, Worker

worker = Worker()


class Mail(BaseModel):
    to: str
    subject: str


@worker.task
async def add(x: int, y: int) -> int:
    return x + y


@worker.task("emails.send", max_attempts=5, backoff=Backoff("1s", factor=2, max="1h"), timeout="30s")
async def send_email(mail: Mail, ctx: Context) -> str:
    ctx.logger.info("would send", extra={"to": mail.to})
    return ctx.idempotency_key
