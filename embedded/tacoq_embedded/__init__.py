"""Manager, workers and Postgres in one process, with no services to install."""
