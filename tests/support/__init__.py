"""Helpers for all tests: wait for a condition, start a process and be rid of it, names of a run's own."""

from scripts.probes import free_port
from tests.support.eventually import eventually
from tests.support.spawn import Spawned, spawn

__all__ = ["Spawned", "eventually", "free_port", "spawn"]
