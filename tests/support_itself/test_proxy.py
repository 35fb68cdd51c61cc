"""The proxy's faults: what each end of a connection sees of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.proxy import Proxy

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that keeps what it was sent, and sends it back."""

    def __init__(self) -> None:
        self.heard = b""
        self.error: BaseException | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except ConnectionError as error:
            self.error = error
        writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest_asyncio.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    proxy = Proxy(*server.sockets[0].getsockname())
    await proxy.start()
    yield proxy
    await proxy.close()
    server.close()


@pytest_asyncio.fixture
async def client(proxy: Proxy) -> AsyncIterator[Ends]:
    """A connection that has worked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a")
    assert await reader.read(1) == b"a"
    yield reader, writer
    writer.transport.abort()


async def test_lost_replies_come_after_the_thaw(proxy: Proxy, client: Ends, echo: Echo) -> None:
    reader, writer = client
    proxy.freeze(requests=False)
    writer.write(b"b")
    await eventually(lambda: echo.heard == b"ab", what="the request arrives")
    answer = asyncio.create_task(reader.read(1))
    await asyncio.wait([answer], timeout=0.05)
    assert not answer.done()
    proxy.thaw()
    assert await answer == b"b"


async def test_requests_that_are_held_back_do_not_arrive(proxy: Proxy, client: Ends, echo: Echo) -> None:
    reader, writer = client
    proxy.freeze(replies=False)
    writer.write(b"b")
    await asyncio.wait([asyncio.create_task(reader.read(1))], timeout=0.05)
    assert echo.heard == b"a"


async def test_what_was_held_back_is_gone_with_a_reset(proxy: Proxy, client: Ends, echo: Echo) -> None:
    reader, writer = client
    proxy.freeze(replies=False)
    writer.write(b"b")
    await eventually(lambda: proxy.held == 1, what="it has come to the proxy")
    proxy.reset()
    proxy.thaw()
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    await eventually(lambda: echo.error is not None, what="the server sees the reset, too")
    assert echo.heard == b"a"


async def test_slow_link_holds_each_way_up(proxy: Proxy, client: Ends) -> None:
    reader, writer = client
    proxy.slow(0.1)
    began = asyncio.get_running_loop().time()
    writer.write(b"b")
    assert await reader.read(1) == b"b"
    assert asyncio.get_running_loop().time() - began >= 0.2
