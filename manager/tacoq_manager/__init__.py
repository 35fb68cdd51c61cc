"""The manager: tasks in over HTTP, releases out over RabbitMQ, states and results kept in Postgres."""
