"""Speed on a GPU, compared with llama.cpp's own benchmark, and serving from a GPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from paddock.engine.parameters import Parameters
from paddock.lifecycle.clients import Clients
from paddock.measure.benchmark import benchmark
from paddock.measure.tuning import tune
from paddock.model.hardware import Machine
from tests.bench import llama_bench
from tests.support.serving import (
    REAL_MODEL_ID,
    REAL_MODEL_NAME,
    ServeProgram,
    ask_many,
    has_restarted,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.gpu

ROUNDS = 3


def run_llama_bench(path: Path, plan: Parameters) -> tuple[float, float]:
    """Run the llama-bench on the PATH, or one that is built with the engine's own libraries."""
    options = {"-m": path, "-p": 256, "-n": 64, "-t": plan.n_threads, "-ngl": 99}
    program = shutil.which("llama-bench")
    if program is None:
        prefill, decode = map(max, llama_bench.measure(options))
    else:
        command = [program, "-o", "json", *(str(word) for pair in options.items() for word in pair)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        prefill, decode = (max(test["samples_ts"]) for test in json.loads(done.stdout))
    return prefill, decode


def test_the_benchmark_is_as_fast_as_llama_bench(machine: Machine, llama: Path) -> None:
    plan = Parameters(n_ctx=4096, n_threads=machine.cores)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        found = benchmark(llama, parameters=plan, n_prompt=256, n_gen=64, machine=machine)
        assert found.bandwidth_source == "driver"
        assert found.results[1].energy_j_per_token
        ours.append((found.prefill_tok_per_s, found.decode_tok_per_s))
        theirs.append(run_llama_bench(llama, plan))
    for number, what in enumerate(("prefill of 256", "decode of 64")):
        best, other = max(one[number] for one in ours), max(one[number] for one in theirs)
        print(f"{what}: {best:.1f} to llama-bench's {other:.1f} tokens/s, {best / other:.3f}")
        assert best >= 0.97 * other
    print(*found.rows(), sep="\n")


def test_a_tuned_plan_is_never_slower(machine: Machine, llama: Path) -> None:
    plan = Parameters(n_ctx=4096, n_threads=machine.cores)
    tuning = tune(llama, plan, budget_s=20, machine=machine)
    print(*(" ".join(row) for row in tuning.rows()), sep="\n")
    assert tuning.gain >= 0.97
    assert sum(trial.rounds > 0 for trial in tuning.trials) > 4


def test_a_server_answers_from_the_gpu_and_restarts_after_a_crash(machine: Machine, promoted_model: Clients) -> None:
    (manifest,) = promoted_model.volume.snapshots(REAL_MODEL_NAME)
    settings = promoted_model.settings
    environment = {
        "PADDOCK_VOLUME": str(settings.volume),
        "HF_ENDPOINT": settings.hub_endpoint,
    }
    with ServeProgram(REAL_MODEL_ID, environment=environment) as program:
        assert program.output, program.wait()
        assert program.output["processor"] == f"GPU: {machine.gpus[0].name}"
        assert program.output["parameters"]["n_gpu_layers"] == -1
        began = time.monotonic()
        answers = ask_many(program.url, 400, max_tokens=16)
        took_s = time.monotonic() - began
        whole = sum(one.complete for one in answers)
        engine = program.engine if whole == 400 else None
        held = engine.memory_info().rss / 2**20 if engine else 0
        print(f"{whole} of 400 whole in {took_s:.1f} s, {held:.0f} MiB resident")
        if whole < 400:
            bad = next(one for one in answers if not one.complete)
            raise AssertionError(f"{bad}: {program.end()}")
        assert isinstance(engine, psutil.Process)
        engine.kill()
        killed = time.monotonic()
        wait_for(partial(has_restarted, program.url, 1), limit_s=60)
        print(f"back after {time.monotonic() - killed:.2f} s; a load took {program.output['load_seconds']} s")
        assert time.monotonic() - killed < 5 + program.output["load_seconds"]
        assert httpx.get(f"{program.url}/health").json()["status"] == "ok"
        assert promoted_model.volume.in_use(manifest.id)
        status, _ = program.end()
        assert status == 0
