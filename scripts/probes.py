"""A server's URL in; why it cannot be used, or None, out: both protocols' log-in over a bare socket."""

from __future__ import annotations

import socket
import struct
from urllib.parse import unquote, urlsplit


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def postgres_fault(url: str) -> str | None:
    """Connect as the URL's user; return why that fails, or None. One that wants a password counts as up."""
    parts = urlsplit(url)
    if not parts.hostname:
        return None  # a unix socket: named by somebody who knows
    user, database = unquote(parts.username or "postgres"), parts.path.lstrip("/") or "postgres"
    startup = struct.pack("!I", 3 << 16) + b"user\0%s\0database\0%s\0\0" % (user.encode(), database.encode())
    try:
        with socket.create_connection((parts.hostname, parts.port or 5432), timeout=5) as link:
            link.sendall(struct.pack("!I", len(startup) + 4) + startup)
            while True:
                kind, length = struct.unpack("!cI", _exactly(link, 5))
                body = _exactly(link, length - 4)
                if kind == b"E":
                    says = next((field[1:] for field in body.split(b"\0") if field[:1] == b"M"), body)
                    return f"it refuses the connection: {says.decode(errors='replace')}"
                if kind == b"R" and body != bytes(4):
                    return None if parts.password else f"it asks for a password of user {user!r}"
                if kind == b"Z":
                    return None
    except OSError as error:
        return str(error)


def rabbit_fault(url: str) -> str | None:
    """Log in and open the URL's virtual host; return why that fails, or None."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    vhost = unquote(parts.path[1:]) or "/"
    credentials = f"\0{user}\0{password}".encode()
    start_ok = (
        struct.pack("!HHI", 10, 11, 0) + b"\x05PLAIN" + struct.pack("!I", len(credentials)) + credentials + b"\x05en_US"
    )
    tune_ok = struct.pack("!HHHIH", 10, 31, 1, 8192, 0)
    open_ = struct.pack("!HHB", 10, 40, len(vhost.encode())) + vhost.encode() + b"\0\0"
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5672), timeout=5) as link:
            link.sendall(b"AMQP\0\0\x09\x01")
            _expect(link, (10, 10))
            link.sendall(_frame(start_ok))
            _expect(link, (10, 30))
            link.sendall(_frame(tune_ok) + _frame(open_))
            _expect(link, (10, 41))
            link.sendall(_frame(struct.pack("!HHHBHH", 10, 50, 200, 0, 0, 0)))
            _expect(link, (10, 51))
    except OSError as error:
        return str(error)
    return None


def redis_fault(url: str) -> str | None:
    """Return why it takes no commands, or None. One that wants a password counts as up when the URL has one."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=5) as link:
            link.sendall(b"PING\r\n")
            answer = link.recv(200).decode(errors="replace").strip()
    except OSError as error:
        return str(error)
    if answer == "+PONG" or (answer.startswith("-NOAUTH") and parts.password):
        return None
    return f"it refuses the connection: {answer.removeprefix('-')}"


def _frame(method: bytes) -> bytes:
    return struct.pack("!BHI", 1, 0, len(method)) + method + b"\xce"


def _expect(link: socket.socket, method: tuple[int, int]) -> None:
    (length,) = struct.unpack("!3xI", _exactly(link, 7))
    body = _exactly(link, length + 1)
    if struct.unpack("!HH", body[:4]) != method:
        raise ConnectionError(f"it refuses the connection: {body[7:-5].decode(errors='replace')}")


def _exactly(link: socket.socket, count: int) -> bytes:
    data = link.recv(count, socket.MSG_WAITALL) if count else b""
    if len(data) < count:
        raise ConnectionError("it closed the connection during log-in")
    return data
