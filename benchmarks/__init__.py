"""What TacoQ costs, beside its peers on the same machine and the same work.

    python -m benchmarks [--quick] [--peers tacoq-postgres,pgqueuer] [--parts rounds,backlog]

Reading order: `peer` (what every product must be able to do here), `peers/` (each product in its documented production
settings), `client` (the publisher's process, which runs the measures of `measures/`), `system` (one product at work,
steered from outside), `accounts` (CPU and memory by process), `plan` (how much of everything), `parts/` (which
measurements are taken, in which order), `report/` (raw data in, docs/benchmarks.md out).
"""
