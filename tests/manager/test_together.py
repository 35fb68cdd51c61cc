"""The head of an answer and what follows leave together, and nothing is kept."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from tacoq_manager.serve import Together
from tests.support.eventually import eventually, others_ran

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class Written:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


@pytest.fixture
def written() -> Written:
    return Written()


def _over(written: Written) -> Together:
    return Together(cast("asyncio.Transport", written))


async def test_head_and_body_are_one_write(written: Written) -> None:
    together = _over(written)
    together.write(HEAD)
    together.write(b"body")
    together.write(b"more")
    await others_ran()
    assert written.writes == [HEAD + b"body", b"more"]


async def test_the_head_of_a_stream_that_has_nothing_to_say_yet_leaves_at_once(written: Written) -> None:
    together = _over(written)
    together.write(HEAD)
    await eventually(lambda: written.writes == [HEAD])
    together.write(b"line")
    assert written.writes == [HEAD, b"line"]


async def test_a_connection_that_is_closed_after_a_head_sends_it(written: Written) -> None:
    together = _over(written)
    together.write(HEAD)
    together.close()
    await others_ran()
    assert written.writes == [HEAD]
    assert written.closed


async def test_all_else_is_asked_of_the_connection(written: Written) -> None:
    assert _over(written).get_extra_info("peername") == "the peername"
