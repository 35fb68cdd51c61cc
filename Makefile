# Everything runs from .venv, which `make install` builds from the pins in requirements.txt. Needs Python 3.11+.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# uv from the PATH, else one of our own inside the virtual environment.
UV := $(or $(shell command -v uv 2>/dev/null),$(VENV)/bin/uv)
MEMBERS := protocol publisher_sdk worker_sdk manager embedded
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed

.PHONY: help install lock demo demo-rabbitmq bench test faults check format services env build clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## build .venv/ with pinned dependencies and the five packages (a no-op when nothing changed)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "TacoQ needs Python 3.11 or later, and $(PYTHON) is %d.%d: make install PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "could not make a virtual environment with $(PYTHON); on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/bin/uv: | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check uv

$(STAMP): requirements.txt $(MEMBERS:%=%/pyproject.toml) | $(VENV)/bin/python $(UV)
	$(UV) pip install --quiet --python $(PY) --compile-bytecode --require-hashes -r requirements.txt
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@$(PY) -m compileall -q $(MEMBERS)  # where Python may not write bytecode, each start would compile anew
	@touch $@

# The peers have an environment of their own: what they depend on is not for TacoQ.
$(BENCH_STAMP): benchmarks/requirements.txt | $(VENV)/bin/python $(UV)
	$(UV) venv --quiet --allow-existing --python $(PY) $(BENCH_VENV)
	$(UV) pip install --quiet --python $(BENCH_VENV)/bin/python --compile-bytecode --require-hashes -r benchmarks/requirements.txt
	@touch $@

lock: | $(VENV)/bin/python $(UV) ## resolve all dependencies anew and write requirements.txt
	$(UV) lock --quiet --upgrade
	$(UV) export --quiet --locked --all-packages --all-extras --all-groups --no-emit-workspace \
	  --no-header --no-annotate --output-file requirements.txt
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --output-file benchmarks/requirements.txt benchmarks/requirements.in

demo: install ## the standard library census, embedded: no services needed
	@$(PY) -m examples.stdlib_census.run --embedded

demo-rabbitmq: install ## the same on RabbitMQ and Postgres, in separate processes
	@$(PY) -m examples.stdlib_census.run --rabbitmq

bench: install $(BENCH_STAMP) ## TacoQ beside its peers (QUICK=1: five minutes; ARGS="--peers tacoq-postgres --parts rounds")
	@$(PY) -m benchmarks $(if $(QUICK),--quick) $(ARGS)

test: install ## the whole test suite (Postgres, RabbitMQ, Redis and a browser: found, started or installed)
	$(PY) scripts/services.py run --no-fsync --redis --browser -- $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

faults: install ## break everything at random under load, for minutes (SEED=1 repeats, FOR=60 seconds)
	@FAULTS_SEED=$(SEED) FAULTS_SECONDS=$(FOR) $(PY) scripts/services.py run --no-fsync --redis -- $(PY) -m tests.faults $(ARGS)

check: install ## lint, format, types, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: install ## let ruff format and fix
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

services: install ## Postgres and RabbitMQ in the foreground; prints their addresses, Ctrl-C ends
	@$(PY) scripts/services.py run

env: ## random passwords for compose.yaml, in .env (an existing one is left as it is)
	@test -e .env || { umask 077; for name in POSTGRES RABBITMQ; do \
	  $(PYTHON) -c "import secrets; print('TACOQ_$${name}_PASSWORD=' + secrets.token_hex(24))"; done > .env; }

build: install ## wheels and sdists of the five packages, in dist/
	for member in $(MEMBERS); do $(UV) build --quiet --python $(PY) --out-dir dist $$member; done

clean: ## remove .venv/, dist/ and the tools' caches
	rm -rf $(VENV) $(BENCH_VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
