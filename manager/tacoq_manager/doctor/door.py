"""The manager's door: its URL in; whether one answers there, of which version, and what it says of itself, out."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import DecodeError, json

from tacoq_manager.doctor.findings import Finding, ok, problem, warning

MOST_BYTES: Final = 64 * 1024
CHECK_IT: Final = "see whether it runs there: tacoq manager; or set TACOQ_MANAGER_URL"


class Answer(NamedTuple):
    """What came back. `content` is empty when it is no JSON object."""

    status: int
    content: Mapping[str, Any]


async def look(found: list[Finding], url: str) -> None:
    """Add what is found."""
    try:
        answer = await _get(url, "/readyz")
    except OSError as error:
        found.append(problem("manager", f"none can be reached at {shown(url)}: {error}", CHECK_IT))
    except ValueError:
        found.append(problem("manager", f"what answers at {shown(url)} speaks no HTTP", CHECK_IT))
    else:
        found += of_answer(answer, shown(url))


def of_answer(answer: Answer, place: str) -> list[Finding]:
    """Judge what /readyz has answered."""
    status, content = answer
    if status == 503 and "detail" in content:
        return [problem("manager", f"the one at {place} is not ready: {content['detail']}", "see its log")]
    if status != 200 or content.get("status") != "ready":
        return [problem("manager", f"what answers at {place} is no manager (status {status})", CHECK_IT)]
    ours, its = version("tacoq-manager"), content.get("version")
    says = f"the one at {place} is ready, of version {its or 'unknown'}"
    findings = [ok("manager", says)]
    if its != ours:
        findings = [
            warning("manager", f"{says}; this is version {ours}", "run the doctor of its version, or upgrade it")
        ]
    if (broker := content.get("broker")) != "open":
        do = "see its log of tacoq.broker; tasks are accepted, and wait"
        findings.append(problem("manager", f"its link to RabbitMQ is {broker}", do))
    if content.get("results") == "away":
        findings.append(
            warning("manager", "it cannot use its Redis: results go to Postgres", "see its log of tacoq.results")
        )
    return findings


def shown(url: str) -> str:
    """Return a URL as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


async def _get(url: str, path: str) -> Answer:
    """Ask once, by HTTP/1.0: the answer ends with the connection. Raises OSError, or ValueError when it is no HTTP."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
    try:
        host = parts.netloc.rpartition("@")[2]
        writer.write(f"GET {parts.path}{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        raw = b""
        while len(raw) < MOST_BYTES and (part := await reader.read(MOST_BYTES)):
            raw += part
    finally:
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    protocol, status, *_ = head.decode("latin-1").split(maxsplit=2)
    if not protocol.startswith("HTTP/"):
        raise ValueError("it is no HTTP")
    try:
        content = json.decode(body)
    except DecodeError:
        content = None
    return Answer(int(status), content if isinstance(content, dict) else {})
