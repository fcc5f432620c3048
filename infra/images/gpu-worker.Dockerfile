# syntax=docker/dockerfile:1
# A worker of the pool paddock-gpu: llama.cpp built for NVIDIA's GPUs, Paddock, and nothing to build with.
#
#   docker build -f infra/images/gpu-worker.Dockerfile --build-arg CUDA_VERSION=12.8.1 -t paddock-gpu-worker .
#   docker run --gpus device=0 -v vllm-models-storage:/models -e PREFECT_API_URL=http://…:4200/api paddock-gpu-worker
#
# One container for each GPU: each takes one run at a time. `python -m infra.bootstrap`, from a checkout, creates the pool
# and the deployments. A worker that serves models is the same image with another command:
#
#   prefect worker start --pool paddock-serve --type process --with-healthcheck
#
# CUDA_VERSION is that of a published nvidia/cuda image, from 11.8.0 to the newest; the host's driver must be at least as
# new. CUDA_ARCHITECTURES are compute capabilities, as CMake writes them: the more, the longer the build and the larger the
# image. CUDA 11.8 knows none beyond 90, and 13 none below 75. Ubuntu 22.04 has images of all of these; 24.04, with
# PYTHON_VERSION=3.12, those from 12.6 on.

ARG CUDA_VERSION=12.8.1
ARG UBUNTU_VERSION=22.04

FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu${UBUNTU_VERSION} AS build
ARG CUDA_ARCHITECTURES="75;80;86;89;90"
ARG PYTHON_VERSION=3.11
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      build-essential cmake git ninja-build \
      "python${PYTHON_VERSION}" "python${PYTHON_VERSION}-dev" "python${PYTHON_VERSION}-venv" \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/paddock
RUN "python${PYTHON_VERSION}" -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The engine first: it changes least, and takes longest. No GPU is there while an image is built, so the architectures are
# named; GGML_NATIVE would build for the processor of whoever builds.
COPY constraints.txt ./
RUN CMAKE_ARGS="-DGGML_CUDA=on -DGGML_NATIVE=OFF -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}" \
    pip install --constraint constraints.txt --no-binary llama-cpp-python llama-cpp-python

COPY pyproject.toml README.md LICENSE ./
COPY paddock paddock
COPY tasks tasks
COPY flows flows
RUN pip install --constraint constraints.txt .

FROM nvidia/cuda:${CUDA_VERSION}-runtime-ubuntu${UBUNTU_VERSION}
ARG PYTHON_VERSION=3.11
# libgomp is the engine's. The interpreter is the one that the environment was made with.
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

# 503 once the worker has not polled for a while. Its default port, 8080, is that of a model server.
ENV PREFECT_WORKER_WEBSERVER_PORT=4201
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4201/health', timeout=4)"]
# A worker that is told to stop lets its run end: give it time (`docker stop -t 1800`).
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["prefect", "worker", "start", "--pool", "paddock-gpu", "--type", "process", "--limit", "1", "--with-healthcheck"]
