"""Detection of GPUs through NVIDIA's Python package, with a driver library that is compiled for the test.

Without a compiler, only the cases without a GPU are tested.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "support" / "nvml.c"
PROGRAM = """
import json
from paddock.model import gpu
from paddock.model.hardware import this_machine
before = gpu.energy_j()
machine = this_machine()
print(json.dumps({"machine": machine.to_json(), "energy": before is not None, "used": gpu.vram_used_bytes()}))
"""
WITHOUT_THE_PACKAGE = "import sys; sys.modules['pynvml'] = None\n" + PROGRAM


def detect(code: str = PROGRAM, **environment: str) -> dict[str, Any]:
    """Detect GPUs in a process of its own, in which CUDA_VISIBLE_DEVICES is only set by `environment`."""
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory with the library of a driver, for LD_LIBRARY_PATH."""
    compiler = next((path for path in map(shutil.which, ("cc", "gcc", "clang")) if path), None)
    if compiler is None:
        pytest.skip("no C compiler: install gcc or clang")
    home = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-o", str(home / "libnvidia-ml.so.1"), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return str(home)


def test_without_the_package_no_gpu_is_detected_with_the_reason() -> None:
    found = detect(WITHOUT_THE_PACKAGE)
    assert found["machine"]["gpus"] == []
    assert found["machine"]["why_no_gpu"] == "the package nvidia-ml-py is not installed"
    assert (found["energy"], found["used"]) == (False, None)


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a driver")
def test_without_a_driver_no_gpu_is_detected_with_the_reason() -> None:
    assert find_spec("pynvml") is not None
    found = detect()
    assert found["machine"]["gpus"] == []
    assert found["machine"]["why_no_gpu"] == "the NVIDIA driver is not available (NVML Shared Library Not Found)"
    assert (found["energy"], found["used"]) == (False, None)


def test_name_memory_and_bandwidth_come_from_the_driver(driver: str) -> None:
    found = detect(LD_LIBRARY_PATH=driver)
    first, second = found["machine"]["gpus"]
    assert first == {
        "name": "Test GPU 0",
        "vram_bytes": 80 * 2**30 - 480 * 2**20,
        "vram_available_bytes": 79 * 2**30,
        "bandwidth_bytes_per_s": 2 * 1_593_000_000 * 5120 // 8,
    }
    assert second["vram_bytes"] == 40 * 2**30
    assert found["machine"]["why_no_gpu"] == ""
    assert (found["energy"], found["used"]) == (True, 2 * 2**30)


def test_reserved_memory_is_included_if_the_package_cannot_query_it(driver: str) -> None:
    found = detect("import pynvml\ndel pynvml.nvmlMemory_v2\n" + PROGRAM, LD_LIBRARY_PATH=driver)
    assert [gpu["vram_bytes"] for gpu in found["machine"]["gpus"]] == [80 * 2**30, 40 * 2**30]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0", ["Test GPU 0"]),
        ("1", ["Test GPU 1"]),
        ("1, 0", ["Test GPU 1", "Test GPU 0"]),
        ("GPU-10000000", ["Test GPU 1"]),
        ("1,7,0", ["Test GPU 1"]),
        ("-1", []),
        ("", []),
    ],
    ids=["the first", "the second", "in its own order", "by its UUID", "up to one that is not there", "none", "empty"],
)
def test_only_the_visible_gpus_are_detected(driver: str, visible: str, names: list[str]) -> None:
    machine = detect(LD_LIBRARY_PATH=driver, CUDA_VISIBLE_DEVICES=visible)["machine"]
    assert [gpu["name"] for gpu in machine["gpus"]] == names
    assert machine["why_no_gpu"] == ("" if names else "the NVIDIA driver shows no GPU that this process may use")


def test_an_error_of_the_driver_means_no_gpu_and_raises_nothing(driver: str) -> None:
    machine = detect(LD_LIBRARY_PATH=driver, PADDOCK_TEST_NVML="broken")["machine"]
    assert machine["gpus"] == []
    assert machine["why_no_gpu"].startswith("the NVIDIA driver reported an error (")


def test_a_benchmark_with_gpus_reports_energy_and_the_gpus_that_the_engine_cannot_use(
    driver: str, tmp_path: Path
) -> None:
    from tests.support.gguf import U32, tiny_llama

    path = tiny_llama().set("llama.context_length", U32, 1024).write(tmp_path / "m.gguf")
    code = (
        "import json, sys; from pathlib import Path; from paddock.measure.benchmark import benchmark;"
        "measured = benchmark(Path(sys.argv[1]), threads=1, context_tokens=1024);"
        "print(json.dumps([measured.to_json(), measured.rows()]))"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": driver}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    document, rows = json.loads(done.stdout)
    taken_j = 0.0
    for one in document["results"]:
        rate = one.get("prefill_tok_per_s") or one.get("decode_tok_per_s")
        assert one["energy_j_per_token"] > 0.5 * 200 / rate  # two GPUs of 100 W; the rate is of the median
        taken_j += one["energy_j_per_token"] * (one["n_prompt"] + one["n_gen"]) * one["repetitions"]
    assert taken_j < 200 * (time.monotonic() - began)
    assert document["vram_bytes"] == 0
    assert document["bandwidth_source"] == "measured"  # of the memory that was read: the processor's
    (gpu,) = [shown for name, shown, _ in rows if name == "GPU"]
    assert gpu == "Test GPU 0, Test GPU 1: not used, since this engine was built without CUDA"
