"""The in-process broker, for tests that play the manager to a session."""

from __future__ import annotations

import pytest

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tests.worker.stopped import Stopped


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


@pytest.fixture
def make_broker(hub: MemoryHub) -> BrokerFactory:
    return lambda name: MemoryBroker(hub, name)


@pytest.fixture
def stopped() -> Stopped:
    return Stopped()
