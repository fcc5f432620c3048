"""Compare Paddock's benchmark with llama-bench, and a tuned plan with llama-cpp-python's defaults, on the real model.

llama-bench runs with the libraries of the installed engine (`tests.support.llama_tools`). All programs alternate, and
the best round of each counts, since other load on a machine can only slow it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from paddock.engine.parameters import Parameters
from paddock.measure.benchmark import benchmark
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.tuning import Tuning, tune
from paddock.model.hardware import this_machine
from tests.bench import llama_bench
from tests.support.engine import real_model

N_PROMPT, N_GEN = 256, 64
MIN_RATIO_TO_LLAMA_BENCH = 0.97
MIN_RATIO_TO_DEFAULTS = 1.9
CONTEXT_TOKENS = 4096
BUDGET_S = 120.0

DEFAULTS_SCRIPT = """
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
"""llama-cpp-python's `Llama` with its default threads, batches and sampling."""


def run(rounds: int) -> bool:
    """Print the ratios, and return whether every bound is met."""
    path = real_model()
    machine = this_machine()
    plan = Parameters(n_ctx=CONTEXT_TOKENS, n_threads=machine.cores, n_gpu_layers=-1 if machine.gpus else 0)
    _llama_bench(path, plan)  # builds it, if that was not done yet
    tuning = tune(path, plan, budget_s=BUDGET_S)
    for row in tuning.rows():
        print("  ", *row)
    ours, theirs, tuned, defaults = [], [], [], []
    for _ in range(rounds):
        ours.append(_ours(path, plan))
        theirs.append(_llama_bench(path, plan))
        tuned.append(_ours(path, tuning.applied(plan)))
        defaults.append(_defaults(path))
    held = [
        _ratio("prefill of 256: paddock to llama-bench", ours, theirs, 0, bound=MIN_RATIO_TO_LLAMA_BENCH),
        _ratio("decode of 64: paddock to llama-bench", ours, theirs, 1, bound=MIN_RATIO_TO_LLAMA_BENCH),
        _ratio("prefill: tuned to llama-cpp-python's defaults", tuned, defaults, 0, bound=None),
        _ratio("decode: tuned to llama-cpp-python's defaults", tuned, defaults, 1, bound=MIN_RATIO_TO_DEFAULTS),
        _ratio("decode: tuned to the plan's own", tuned, ours, 1, bound=0.97),
    ]
    _warn_if_busy(tuning)
    return all(held)


def _ours(path: Path, parameters: Parameters) -> tuple[float, float]:
    measured: Benchmark = benchmark(path, parameters=parameters, n_prompt=N_PROMPT, n_gen=N_GEN)
    return measured.prefill_tok_per_s, measured.decode_tok_per_s


def _llama_bench(path: Path, plan: Parameters) -> tuple[float, float]:
    """Medians of its five repetitions, like those of Paddock's benchmark."""
    layers = 99 if plan.n_gpu_layers < 0 else plan.n_gpu_layers
    arguments = {"-m": path, "-p": N_PROMPT, "-n": N_GEN, "-r": 5, "-t": plan.n_threads, "-ngl": layers}
    arguments |= {"-b": plan.n_batch, "-ub": plan.n_ubatch, "-fa": plan.flash_attn}
    prefill, decode = map(median, llama_bench.measure(arguments))
    return prefill, decode


def _defaults(path: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", DEFAULTS_SCRIPT, str(path), str(N_PROMPT), str(N_GEN)]
    output = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)
    return output["prefill"], output["decode"]


def _ratio(
    label: str, ours: list[tuple[float, float]], theirs: list[tuple[float, float]], index: int, *, bound: float | None
) -> bool:
    our_best, their_best = (max(rates[index] for rates in side) for side in (ours, theirs))
    bound_text = "" if bound is None else f" (bound: {bound})"
    print(f"{label}: {our_best:.1f} to {their_best:.1f} tokens/s, {our_best / their_best:.3f}{bound_text}")
    return bound is None or our_best / their_best >= bound


def _warn_if_busy(tuning: Tuning) -> None:
    if tuning.busy:
        print(f"the machine was busy ({tuning.load:.1f} running processes at the start): the ratios are unreliable")
