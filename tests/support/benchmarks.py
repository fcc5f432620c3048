"""Results of benchmarks and qualities with given figures, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddock.engine.oracle import Memory
from paddock.measure.benchmark_report import SCHEMA, Benchmark, LengthResult
from paddock.measure.load_test import LevelResult, LoadTest
from paddock.measure.quality import Estimate, KlDivergence, Quality
from paddock.model.gpu import Gpu
from paddock.model.hardware import Machine

LAPTOP = Machine("A CPU", 8, 32 * 2**30, 20 * 2**30, why_no_gpu="it has none")
GPU_HOST = Machine(
    "Another CPU", 32, 256 * 2**30, 200 * 2**30, gpus=(Gpu("NVIDIA GeForce RTX 4090", 24_100 * 2**20, 0),)
)
DISTURBED = ("other processes used 3.0 of 8 cores",)


def a_benchmark(
    *,
    decode: float | None = 100.0,
    prefill: float = 1000.0,
    joules: tuple[float | None, float | None] = (None, None),
    memory_bytes: int = 2**30,
    context_tokens: int = 4096,
    machine: Machine = LAPTOP,
    measured_at: str = "2026-05-01T09:00:00+00:00",
    **changes: Any,
) -> Benchmark:
    """A reliable result. `joules` are those of a prompt's and of an answer's token."""
    results = [LengthResult(256, 0, prefill, None, 0.01, 3, 0.2, joules[0])]
    if decode is not None:
        results.append(LengthResult(0, 64, None, decode, 0.02, 3, None, joules[1]))
    return Benchmark(
        **{
            "results": tuple(results),
            "time_to_first_token_s": 0.2,
            "load_s": 1.0,
            "memory": Memory(memory_bytes, 0, 0, 0, "engine"),
            "peak_rss_bytes": memory_bytes,
            "canary": (1, 2),
            "machine": machine,
            "engine": "llama-cpp-python 1",
            "parameters": {"n_ctx": context_tokens, "n_threads": 8},
            "schema": SCHEMA,
            "measured_at": measured_at,
            "build": "b1",
            **changes,
        }
    )


def a_load_test(levels: Sequence[tuple[int, float]], *, on_this_machine: bool | None = True) -> LoadTest:
    """Levels of (requests at once, tokens a second)."""
    results = tuple(
        LevelResult(number, 16, 16 if speed else 0, {}, 1.0, speed, None, None, None) for number, speed in levels
    )
    return LoadTest("a model", 64, True, results, on_this_machine)


def a_quality(
    kl_mean: float, *, model: str, reference: str, texts: str = "t", measured_at: str = "2026-05-01T09:00:00+00:00"
) -> Quality:
    estimate = Estimate(10.0, 9.0, 11.0)
    return Quality(
        model=model,
        reference=reference,
        tokens=8000,
        predicted=7000,
        perplexity=estimate,
        reference_perplexity=estimate,
        kl_divergence=KlDivergence(kl_mean, kl_mean, kl_mean, kl_mean, kl_mean, (kl_mean, kl_mean)),
        top1_agreement=Estimate(0.9, 0.8, 1.0),
        texts=(),
        texts_sha256=texts,
        seconds=1.0,
        engine="llama-cpp-python 1",
        measured_at=measured_at,
    )
