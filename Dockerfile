# Two images from one file: `--target manager` (also runs `tacoq migrate`) and `--target worker` (the example's).

FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/venv/bin:$PATH
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tacoq

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY protocol protocol
COPY publisher_sdk publisher_sdk
COPY worker_sdk worker_sdk
COPY manager manager
COPY alembic alembic
RUN pip wheel --no-deps --wheel-dir /wheels ./protocol ./publisher_sdk ./worker_sdk ./manager
# The same versions as in development; here as bounds, so that each image gets only what it needs.
COPY requirements.txt .
RUN sed -E '/--hash/d; s/ *\\$//' requirements.txt > constraints.txt && python -m venv /venv

FROM build AS build-manager
RUN pip install --constraint constraints.txt /wheels/tacoq_protocol-*.whl "$(echo /wheels/tacoq_manager-*.whl)[redis]"

FROM build AS build-worker
RUN pip install --constraint constraints.txt /wheels/tacoq_protocol-*.whl /wheels/tacoq_publisher-*.whl /wheels/tacoq_worker-*.whl

FROM base AS manager
COPY --from=build-manager /venv /venv
USER tacoq
ENV TACOQ_HOST=0.0.0.0 TACOQ_PORT=3000
EXPOSE 3000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"TACOQ_PORT\"]}/readyz', timeout=2)"]
ENTRYPOINT ["tacoq"]
CMD ["manager"]

FROM base AS worker
COPY --from=build-worker /venv /venv
WORKDIR /app
COPY examples examples
USER tacoq
ENTRYPOINT ["tacoq"]
CMD ["worker", "examples.stdlib_census.tasks:worker"]
