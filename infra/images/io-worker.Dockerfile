# syntax=docker/dockerfile:1
# A worker of the pool paddock-io: Paddock with llama.cpp built for processors, without build tools.
#
#   docker build -f infra/images/io-worker.Dockerfile -t paddock-io-worker:0.1.0 .
#   docker run -v vllm-models-storage:/models -e PREFECT_API_URL=http://…:4200/api paddock-io-worker:0.1.0
#
# The engine estimates memory and validates models here. The same image runs the other programs that need no GPU:
#
#   prefect worker start --pool paddock-serve --type process --with-healthcheck     a worker that serves on processors
#   prefect server start --no-services --host 0.0.0.0                               Prefect's API
#   prefect server services start                                                   Prefect's background services
#   python -m infra.bootstrap                                                       creates pools and deployments
#
# Its root file system can be read-only: with temporary file systems at /tmp and /home/paddock, only /models is written.
#
# BUILD_IMAGE and RUNTIME_IMAGE are the base images. Named by their digests, as `docker buildx imagetools inspect IMAGE`
# prints them, a build is the same at each time: `--build-arg BUILD_IMAGE=python:3.11-bookworm@sha256:…`.

ARG PYTHON_VERSION=3.11
ARG BUILD_IMAGE=python:${PYTHON_VERSION}-bookworm
ARG RUNTIME_IMAGE=python:${PYTHON_VERSION}-slim-bookworm

FROM ${BUILD_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/paddock
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The engine first, since it changes least and takes longest. GGML_NATIVE would build for the processor of the build
# machine.
COPY constraints.txt requirements.txt ./
COPY infra/__init__.py infra/build_engine.py infra/locked.py infra/
RUN CMAKE_ARGS="-DGGML_NATIVE=OFF" \
    python -m infra.build_engine /opt/engine \
 && pip install --no-deps /opt/engine/*.whl \
 && python -m infra.locked install

COPY pyproject.toml README.md LICENSE ./
COPY paddock paddock
COPY tasks tasks
COPY flows flows
RUN pip install --no-deps --no-build-isolation .

FROM ${RUNTIME_IMAGE}
# libgomp is needed by the engine.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libgomp1 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home paddock \
 && install -d -o paddock -g paddock /models
COPY --from=build /opt/venv /opt/venv

# The bootstrap: `python -m infra.bootstrap` in the working directory. Workers and servers do not use it.
WORKDIR /opt/paddock
COPY prefect.yaml ./
COPY infra/__init__.py infra/automations.py infra/bootstrap.py infra/deployments.py infra/

ENV PATH=/opt/venv/bin:$PATH \
    PADDOCK_VOLUME=/models \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    PYTHONDONTWRITEBYTECODE=1
VOLUME /models
USER 10001

# 503 if the worker has not polled for a while. Not on its default port, 8080, which is that of a model server.
ENV PREFECT_WORKER_WEBSERVER_PORT=4201
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4201/health', timeout=4)"]
# On SIGTERM a worker waits for its flow runs to end: give it time (`docker stop -t 1800`).
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["prefect", "worker", "start", "--pool", "paddock-io", "--type", "process", "--with-healthcheck"]
