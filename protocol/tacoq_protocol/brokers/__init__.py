"""The broker port's adapters: `rabbitmq` (RabbitMQ, under our own supervisor) and `memory` (one process)."""
