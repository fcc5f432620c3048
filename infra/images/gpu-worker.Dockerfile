# syntax=docker/dockerfile:1
# A worker of the pool paddock-gpu: llama.cpp built for NVIDIA GPUs, and Paddock, without build tools.
#
#   docker build -f infra/images/gpu-worker.Dockerfile --build-arg CUDA_VERSION=12.8.1 -t paddock-gpu-worker:0.1.0 .
#   docker run --gpus device=0 -v vllm-models-storage:/models -e PREFECT_API_URL=… paddock-gpu-worker:0.1.0
#
# Run one container for each GPU: each takes one flow run at a time. `python -m infra.bootstrap`, in a checkout, creates
# the pool and the deployments. A worker that serves models is the same image with another command:
#
#   prefect worker start --pool paddock-serve --type process --with-healthcheck
#
# Its root file system can be read-only: with temporary file systems at /tmp and /home/paddock, only /models is written.
#
# BUILD_IMAGE and RUNTIME_IMAGE are the base images. Named by their digests, as `docker buildx imagetools inspect IMAGE`
# prints them, a build is the same at each time: `--build-arg BUILD_IMAGE=nvidia/cuda:12.8.1-devel-ubuntu22.04@sha256:…`.
#
# CUDA_VERSION is the version of a published nvidia/cuda image, from 11.8.0 to the newest; the host's driver must be at
# least as new. CUDA_ARCHITECTURES are compute capabilities in CMake's form; more of them make the build longer and the
# image larger. CUDA 11.8 supports none above 90, and CUDA 13 none below 75. Ubuntu 22.04 has images for all of these
# versions; 24.04, with PYTHON_VERSION=3.12, for those from 12.6 on.

ARG CUDA_VERSION=12.8.1
ARG UBUNTU_VERSION=22.04
ARG BUILD_IMAGE=nvidia/cuda:${CUDA_VERSION}-devel-ubuntu${UBUNTU_VERSION}
ARG RUNTIME_IMAGE=nvidia/cuda:${CUDA_VERSION}-runtime-ubuntu${UBUNTU_VERSION}

FROM ${BUILD_IMAGE} AS build
ARG CUDA_ARCHITECTURES="75;80;86;89;90"
ARG PYTHON_VERSION=3.11
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      build-essential git \
      "python${PYTHON_VERSION}" "python${PYTHON_VERSION}-dev" "python${PYTHON_VERSION}-venv" \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/paddock
RUN "python${PYTHON_VERSION}" -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The engine first, since it changes least and takes longest. There is no GPU during an image build, so the architectures
# are named; GGML_NATIVE would build for the processor of the build machine.
COPY constraints.txt requirements.txt ./
COPY infra/__init__.py infra/build_engine.py infra/locked.py infra/
RUN CMAKE_ARGS="-DGGML_CUDA=on -DGGML_NATIVE=OFF -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}" \
    python -m infra.build_engine /opt/engine \
 && pip install --no-deps /opt/engine/*.whl \
 && python -m infra.locked install

COPY pyproject.toml README.md LICENSE ./
COPY paddock paddock
COPY tasks tasks
COPY flows flows
RUN pip install --no-deps --no-build-isolation .

FROM ${RUNTIME_IMAGE}
ARG PYTHON_VERSION=3.11
# libgomp is needed by the engine. The interpreter is the one that the virtual environment was created with.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libgomp1 tini "python${PYTHON_VERSION}" \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home paddock \
 && install -d -o paddock -g paddock /models
COPY --from=build /opt/venv /opt/venv

ENV PATH=/opt/venv/bin:$PATH \
    PADDOCK_VOLUME=/models \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    PYTHONDONTWRITEBYTECODE=1
VOLUME /models
USER 10001

# 503 if the worker has not polled for a while. Not on its default port, 8080, which is that of a model server.
ENV PREFECT_WORKER_WEBSERVER_PORT=4201
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4201/health', timeout=4)"]
# On SIGTERM a worker waits for its flow run to end: give it time (`docker stop -t 1800`).
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["prefect", "worker", "start", "--pool", "paddock-gpu", "--type", "process", "--limit", "1", "--with-healthcheck"]
