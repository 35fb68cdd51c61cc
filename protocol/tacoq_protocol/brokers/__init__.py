"""The broker port's two adapters: `rabbitmq` (aio-pika, under our own supervisor) and `memory` (one process)."""
