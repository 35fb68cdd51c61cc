"""A Hypothesis state machine that drives the manager's decisions, beside a plain model of tasks.

Reading order: `played` (RabbitMQ and worker sessions, which the machine plays), `world` (these, and real managers
on real Postgres whose stages run only when they are told to), `model` (what each task must look like), `checks` (what
must hold), `play` (all that may happen, done to both, and the end, at which nothing may be stuck), `machine` (the
rules).
"""
