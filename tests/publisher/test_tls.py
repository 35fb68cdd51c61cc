"""The same over TLS: whom it trusts, and what a handshake that fails, or never ends, means."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from tacoq_publisher import connections as connections_module
from tacoq_publisher.connections import Connections
from tacoq_publisher.http1 import Connection, Fault
from tacoq_publisher.settings import load_settings
from tacoq_publisher.transport import Answer, Transport
from tests.publisher.raw_server import MIB, OK, Peer, always, ask, once, raw_server, then_nothing, under_uvloop
from tests.support.eventually import eventually


class Certificate:
    """For 127.0.0.1, signed by itself."""

    def __init__(self, folder: Path) -> None:
        self.file, key = folder / "certificate.pem", folder / "key.pem"
        request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tacoq -addext"
        subprocess.run(
            ["openssl", *request.split(), "subjectAltName=IP:127.0.0.1", "-out", self.file, "-keyout", key],
            check=True,
            capture_output=True,
        )
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(self.file, key)
        self.server.set_alpn_protocols(["h2", "http/1.1"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    return certificate


async def requests_are_answered(certificate: Certificate) -> None:
    async with raw_server(always(OK), certificate.server) as server:
        connections = Connections(server.url, {})
        bodies = [b"small", bytes(5 * MIB), b""]
        assert [await ask(connections, body) for body in bodies] == [(200, b"ok")] * 3
        assert [request.body for request in server.requests] == bodies
        assert len(server.peers) == 1
        await connections.close()
        assert not connections._open
        await eventually(lambda: server.closed == 1)


async def connections_closed_while_idle_are_not_used(certificate: Certificate) -> None:
    async with raw_server(once(OK), certificate.server) as server:
        connections = Connections(server.url, {})
        for _ in range(3):
            assert await ask(connections) == (200, b"ok")
            await eventually(lambda: not connections._open)
        assert len(server.peers) == 3
        await connections.close()


async def an_answer_without_length_ends_with_its_connection(certificate: Certificate) -> None:
    async with raw_server(once(b"HTTP/1.0 200 OK\r\n\r\n", b"who", b"le"), certificate.server) as server:
        connections = Connections(server.url, {})
        assert await ask(connections) == (200, b"whole")
        await connections.close()


async def silence_is_a_fault(certificate: Certificate) -> None:
    async with raw_server(then_nothing(OK), certificate.server) as server:
        connections = Connections(server.url, {})
        await ask(connections)
        with pytest.raises(Fault, match="no answer in time") as caught:
            await ask(connections, seconds=0.1)
        assert caught.value.sent
        await connections.close()
        await eventually(lambda: server.peers[0].gone)


async def what_is_not_read_is_held_back_and_then_arrives(certificate: Certificate) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (32 * MIB))
        for _ in range(32):
            await peer.say(b"x" * (MIB - 1) + b"\n")
            sent += 1
        await peer.until_gone()

    async with raw_server(script, certificate.server) as server:
        async with Transport(load_settings(server.url), retry_for=0, try_seconds=10) as transport:
            async with transport.stream("/wait", b"{}", silence=10) as answer:
                assert not isinstance(answer, Answer)
                (connection,) = transport._connections._open
                await eventually(lambda: not connection._transport.is_reading())
                assert sent < 32
                assert sum([len(lines) async for lines in answer]) == 32 * MIB


async def closing_ends_busy_connections(certificate: Certificate) -> None:
    async with raw_server(then_nothing(OK[:-1]), certificate.server) as server:
        connections = Connections(server.url, {})
        asking = asyncio.create_task(ask(connections))
        await eventually(lambda: server.requests)
        await connections.close()
        with pytest.raises(Fault, match="it was closed"):
            await asking
        await eventually(lambda: server.peers[0].gone)


SCENARIOS = [
    requests_are_answered,
    connections_closed_while_idle_are_not_used,
    an_answer_without_length_ends_with_its_connection,
    silence_is_a_fault,
    what_is_not_read_is_held_back_and_then_arrives,
    closing_ends_busy_connections,
]
Scenario = Callable[[Certificate], Coroutine[object, object, None]]


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_over_tls(trusted: Certificate, scenario: Scenario) -> None:
    await scenario(trusted)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_over_tls_under_uvloop(trusted: Certificate, scenario: Scenario) -> None:
    under_uvloop(lambda: scenario(trusted))


async def test_a_certificate_that_nobody_vouches_for_is_a_fault_in_which_nothing_was_sent(
    certificate: Certificate,
) -> None:
    async with raw_server(always(OK), certificate.server) as server:
        connections = Connections(server.url, {})
        with pytest.raises(Fault, match=r"cannot connect \(.*certificate") as caught:
            await ask(connections)
        assert not caught.value.sent
        assert not server.requests


async def test_a_certificate_of_another_host_is_a_fault_in_which_nothing_was_sent(trusted: Certificate) -> None:
    async with raw_server(always(OK), trusted.server) as server:
        connections = Connections(server.url.replace("127.0.0.1", "localhost"), {})
        with pytest.raises(Fault, match=r"cannot connect \(.*certificate.*localhost") as caught:
            await ask(connections)
        assert not caught.value.sent


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["speaks HTTP", "closes"])
async def test_a_server_without_tls_is_a_fault_in_which_nothing_was_sent(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1024)
        await peer.say(said)

    async with raw_server(script) as server:
        connections = Connections(server.url.replace("http://", "https://"), {})
        with pytest.raises(Fault, match=r"cannot connect \(.+\)") as caught:
            await ask(connections)
        assert not caught.value.sent


@pytest.mark.parametrize(("connect", "seconds"), [(0.1, 10.0), (10.0, 0.1)], ids=["connect", "request"])
async def test_a_handshake_that_takes_too_long_is_a_fault_in_which_nothing_was_sent(
    connect: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "CONNECT_SECONDS", connect)
    async with raw_server(Peer.until_gone) as server:
        connections = Connections(server.url.replace("http://", "https://"), {})
        with pytest.raises(Fault, match=r"cannot connect \(no answer in time\)") as caught:
            await ask(connections, seconds=seconds)
        assert not caught.value.sent
        await eventually(lambda: all(peer.gone for peer in server.peers))


async def cancelled_in_a_handshake() -> None:
    async with raw_server(Peer.until_gone) as server:
        connections = Connections(server.url.replace("http://", "https://"), {})
        asking = asyncio.create_task(ask(connections))
        await eventually(lambda: server.peers)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        await eventually(lambda: server.peers[0].gone)
        await connections.close()


async def test_a_request_cancelled_in_a_handshake_leaves_nothing_behind() -> None:
    await cancelled_in_a_handshake()


def test_a_request_cancelled_in_a_handshake_leaves_nothing_behind_under_uvloop() -> None:
    under_uvloop(cancelled_in_a_handshake)


async def test_a_request_cancelled_as_its_handshake_ends_does_not_harm_the_next_one(
    trusted: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cancels(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            asking.cancel()

    async with raw_server(always(OK), trusted.server) as server:
        connections = Connections(server.url, {})
        with monkeypatch.context() as patched:
            patched.setattr(connections_module, "Connection", Cancels)
            asking = asyncio.create_task(ask(connections))
            await asyncio.wait([asking])
        assert asking.cancelled()
        assert await ask(connections) == (200, b"ok")
        await eventually(lambda: server.closed == 1)
        await connections.close()
