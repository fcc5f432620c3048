"""Our benchmark beside llama.cpp's own, and a tuned plan beside llama-cpp-python as it comes, on the real model.

llama-bench runs on the libraries of the engine that is installed (`tests.bench.llama_bench`). All take turns, and of
each its quietest turn counts: what disturbs a machine only slows it.

How much faster a tuned plan is than llama-cpp-python as it comes rests on the machine. That computes answers with half
of the cores, and loses little by it where one core alone takes what the memory gives, or two are threads of one core.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from paddock.engine.parameters import Parameters
from paddock.measure.benchmark import Benchmark, benchmark
from paddock.measure.tuning import Tuning, tune
from paddock.model.hardware import this_machine
from tests.bench import llama_bench
from tests.support.engine import real_model

N_PROMPT, N_GEN = 256, 64
OURS_TO_LLAMA_BENCH = 0.97
TUNED_TO_DEFAULTS = 1.9
CONTEXT_TOKENS = 4096
BUDGET_S = 120.0

AS_IT_COMES = """
import json, sys, time
from llama_cpp import Llama
model = Llama(sys.argv[1], verbose=False)
prompt = [model.token_bos(), *range(100, 100 + int(sys.argv[2]) - 1)]
for _ in model.generate(prompt[:8]):
    break
best = {"prefill": 0.0, "decode": 0.0}
for _ in range(5):
    model.reset()
    times = [time.perf_counter()]
    for _ in model.generate(prompt):
        times.append(time.perf_counter())
        if len(times) > int(sys.argv[3]):
            break
    best["prefill"] = max(best["prefill"], len(prompt) / (times[1] - times[0]))
    best["decode"] = max(best["decode"], (len(times) - 2) / (times[-1] - times[1]))
print(json.dumps(best))
"""
"""Its high-level object without a word about threads or batches, and its own way of choosing the next token."""


def run(rounds: int) -> bool:
    """Print the ratios; whether every bound holds."""
    path = real_model()
    machine = this_machine()
    plan = Parameters(n_ctx=CONTEXT_TOKENS, n_threads=machine.cores, n_gpu_layers=-1 if machine.gpus else 0)
    _llama_bench(path, plan)  # which builds it, where that was not done yet
    tuning = tune(path, plan, budget_s=BUDGET_S)
    for row in tuning.rows():
        print("  ", *row)
    ours, theirs, tuned, as_it_comes = [], [], [], []
    for _ in range(rounds):
        ours.append(_ours(path, plan))
        theirs.append(_llama_bench(path, plan))
        tuned.append(_ours(path, tuning.applied(plan)))
        as_it_comes.append(_as_it_comes(path))
    held = [
        _ratio("prefill of 256: paddock to llama-bench", ours, theirs, 0, wanted=OURS_TO_LLAMA_BENCH),
        _ratio("decode of 64: paddock to llama-bench", ours, theirs, 1, wanted=OURS_TO_LLAMA_BENCH),
        _ratio("prefill: tuned to llama-cpp-python as it comes", tuned, as_it_comes, 0, wanted=None),
        _ratio("decode: tuned to llama-cpp-python as it comes", tuned, as_it_comes, 1, wanted=TUNED_TO_DEFAULTS),
        _ratio("decode: tuned to the plan's own", tuned, ours, 1, wanted=0.97),
    ]
    _say_busy(tuning)
    return all(held)


def _ours(path: Path, parameters: Parameters) -> tuple[float, float]:
    measured: Benchmark = benchmark(path, parameters=parameters, n_prompt=N_PROMPT, n_gen=N_GEN)
    return measured.prefill_tok_per_s, measured.decode_tok_per_s


def _llama_bench(path: Path, plan: Parameters) -> tuple[float, float]:
    """The medians of its five repetitions, as ours are."""
    layers = 99 if plan.n_gpu_layers < 0 else plan.n_gpu_layers
    given = {"-m": path, "-p": N_PROMPT, "-n": N_GEN, "-r": 5, "-t": plan.n_threads, "-ngl": layers}
    given |= {"-b": plan.n_batch, "-ub": plan.n_ubatch, "-fa": plan.flash_attn}
    prefill, decode = map(median, llama_bench.measure(given))
    return prefill, decode


def _as_it_comes(path: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", AS_IT_COMES, str(path), str(N_PROMPT), str(N_GEN)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)
    return said["prefill"], said["decode"]


def _ratio(
    what: str, ours: list[tuple[float, float]], theirs: list[tuple[float, float]], which: int, *, wanted: float | None
) -> bool:
    mine, other = (max(figures[which] for figures in side) for side in (ours, theirs))
    bound = "" if wanted is None else f" (wanted {wanted})"
    print(f"{what}: {mine:.1f} to {other:.1f} tokens/s, {mine / other:.3f}{bound}")
    return wanted is None or mine / other >= wanted


def _say_busy(tuning: Tuning) -> None:
    if tuning.busy:
        print(f"the machine was busy ({tuning.load:.1f} processes at the beginning): believe the ratios with caution")
