"""The Redis that results are kept in: is it there, and can it keep what a manager gives it."""

from __future__ import annotations

from datetime import timedelta

from tacoq_manager.doctor.findings import Finding, ok, problem
from tacoq_manager.store.results import results_of


async def look(found: list[Finding], url: str, *, ttl: timedelta, namespace: str) -> None:
    """Add what is found. Raises ConfigurationError, ResultsUnavailable."""
    results = results_of(url, ttl=ttl, namespace=namespace)
    try:
        told = await results.look()
    finally:
        await results.close()
    says = f"Redis {told.get('redis_version')} answers"
    if told.get("role") != "master" or told.get("cluster_enabled"):
        do = "give TACOQ_RESULTS_URL a single server, or the primary of replicas"
        found.append(problem("results", f"{says}, and it is a replica or of a cluster: it cannot keep results", do))
    else:
        found.append(ok("results", says))
