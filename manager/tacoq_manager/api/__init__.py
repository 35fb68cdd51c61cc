"""The HTTP API: requests in, one call of the manager, answers or problem details out. No business logic.

Tasks go in and out by the thousand: the doors on that path (publish, batch, get, wait) are plain routes that msgspec
reads and writes; the others are FastAPI's. Reading order: app, bodies, problems, tasks, stream.
"""
