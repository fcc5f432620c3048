"""Benchmark a model on this machine: speed, time to first token, memory and energy.

    prefill   n_prompt tokens at once into an empty context, in tokens per second. Limited by arithmetic; llama-bench's
              `pp256`
    decode    n_gen tokens one by one into an empty context, in tokens per second. Limited by memory bandwidth: each
              token reads every weight once (of a mixture of experts, the selected ones); llama-bench's `tg64`
    time to first token
              from an empty context until the first token after a prompt of n_prompt is chosen: what a user waits
              for when the request is alone, without the time of the HTTP server
    energy    joules per token, of the GPUs only, as their driver counts them
    spread    (slowest - fastest) / median of the repetitions. 0.05 is a quiet machine; two results that differ by
              less than their spreads are equal

Tokens are random but the same in every run, since the time does not depend on the text. One warm-up is not counted.
Then there are three repetitions; five if one takes less than a second; twenty, after a warm-up of their own, if one
takes less than a twentieth of a second. Figures are medians. The context is emptied between repetitions. The first
prompt length and the first answer length are always measured, further ones only if they will probably end within the
time limit. A figure that was not measured is None.

Decode is shown beside its upper limit: it reads the weights' bytes times tokens per second, which cannot exceed the
memory bandwidth. For a processor the bandwidth is measured (`paddock.measure.bandwidth`), for a GPU it is computed from
the clock and bus that its driver reports.

A model that embeds instead of generating text has prefill alone: the time until the embedding of a prompt is there. Its
prompts are at most as long as what the engine encodes at once (`n_ubatch`).

A result says whether it can be believed (`paddock.measure.reliability`): one that was disturbed has *doubts*, and is
not compared with others.

Before the load, the engine estimates the memory (`engine.oracle`), and a model that does not fit is refused. After the
load, a canary checks that eight greedy tokens have finite logits that differ, since a benchmark of garbage is not a
result. The quality of the answers is not judged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from paddock.engine import process
from paddock.engine.facts import engine_build, engine_version
from paddock.engine.oracle import Memory, measure_descriptors, memory_from_log
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting, ConflictingConfiguration
from paddock.gguf.directory import local_kind
from paddock.gguf.kind import ModelKind
from paddock.measure.bandwidth import read_bandwidth
from paddock.measure.benchmark_report import SCHEMA, Benchmark, LengthResult
from paddock.measure.reliability import doubts
from paddock.model.hardware import Machine, this_machine
from paddock.planning.fitting import check_fits

LIMIT_S = 120.0


def benchmark(
    path: Path,
    *,
    parameters: Parameters | None = None,
    threads: int | None = None,
    context_tokens: int = 2048,
    n_prompt: int = 256,
    n_gen: int = 64,
    more_prompts: Sequence[int] = (),
    more_gens: Sequence[int] = (),
    limit_s: float = LIMIT_S,
    timeout_s: float = 1800.0,
    machine: Machine | None = None,
) -> Benchmark:
    """Benchmark a local GGUF (the first shard of a split one) in the engine's child process.

    `parameters` take precedence over `threads` (by default every core) and `context_tokens`. `more_prompts` and
    `more_gens` are further lengths to measure within `limit_s` seconds; those longer than the context are left out.
    `machine` is this machine, passed only to avoid detecting it again.

    Raises BadSetting for lengths beyond the context, ConflictingConfiguration for a kind of model that the engine
    neither generates text nor embeds with, DoesNotFit before the file is loaded, ModelRejected if the canary fails, and
    the errors of `process.run`.
    """
    engine = f"llama-cpp-python {engine_version()}"
    machine = machine or this_machine()
    parameters = parameters or Parameters(n_ctx=context_tokens, n_threads=threads or machine.cores)
    if not 1 <= max(n_prompt, n_gen) <= parameters.n_ctx or min(n_prompt, n_gen) < 1:
        raise BadSetting(
            f"n_prompt {n_prompt} and n_gen {n_gen} must each be from 1 to n_ctx, which is {parameters.n_ctx}"
        )
    kind = local_kind(path)
    require_measurable(path.name, kind)
    longest = min(parameters.n_ctx, parameters.n_ubatch) if kind.embeds else parameters.n_ctx
    n_prompt = min(n_prompt, longest)
    prompts = (n_prompt, *(length for length in more_prompts if length != n_prompt and length <= longest))
    generations = (n_gen, *(length for length in more_gens if length != n_gen and length <= parameters.n_ctx))
    lengths = {"prompts": prompts} if kind.embeds else {"prompts": prompts, "generations": generations}
    with process.open_shards(path) as descriptors:
        # The same descriptors for the estimate and the load, so that both read the same bytes.
        estimate = measure_descriptors(descriptors, parameters)
        check_fits(path, parameters, estimate, machine)
        measured: Mapping[str, Any] = process.run(
            "embed" if kind.embeds else "benchmark",
            {
                "paths": process.paths_of(descriptors),
                "parameters": parameters.to_json(),
                **lengths,
                "limit_s": min(limit_s, timeout_s / 2),
            },
            timeout_s=timeout_s,
            descriptors=descriptors,
        ).result
    memory = memory_from_log(measured["weights_bytes"], measured["lines"])
    bandwidth, source = _bandwidth(memory, machine, parameters)
    prefill = [_prefill(length, runs) for length, runs in zip(prompts, measured["prefill"], strict=True)]
    decoded = zip(() if kind.embeds else generations, measured["decode"], strict=True)
    decode = [_decode(length, runs) for length, runs in decoded]
    result = Benchmark(
        results=(*prefill[:1], *decode[:1], *prefill[1:], *decode[1:]),
        time_to_first_token_s=round(median(measured["prefill"][0]["until_chosen_s"]), 4),
        load_s=round(measured["load_s"], 3),
        memory=memory,
        peak_rss_bytes=measured["peak_rss_bytes"],
        canary=tuple(measured["canary"]),
        machine=machine,
        engine=engine,
        parameters=parameters.to_json(),
        schema=SCHEMA,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        build=engine_build(),
        features=measured["features"],
        uses_gpus=measured["uses_gpus"],
        vram_bytes=measured["vram_bytes"],
        bandwidth_bytes_per_s=bandwidth,
        bandwidth_source=source,
        kind=kind,
    )
    return replace(result, doubts=_doubts(result, measured["disturbance"]))


def _doubts(result: Benchmark, disturbance: Mapping[str, Any]) -> tuple[str, ...]:
    """Why the result cannot be believed, judged by the standard lengths."""
    standard = result.results[: 1 if result.kind.embeds else 2]
    return doubts(
        {"prefill" if one.n_prompt else "decode": one.spread for one in standard},
        disturbance,
        on_gpu=result.memory.on_gpu,
        weights_bytes=result.memory.weights_bytes,
        read_bytes_per_s=None if result.kind.embeds else result.weights_read_bytes_per_s,
        bandwidth_bytes_per_s=result.bandwidth_bytes_per_s,
    )


def require_measurable(name: str, kind: ModelKind) -> None:
    """Raise ConflictingConfiguration for a kind of model that the engine neither generates text nor embeds with."""
    if not (kind.generates_text or kind.embeds):
        raise ConflictingConfiguration(
            f"{name} is {kind.noun}, and there is no benchmark for it: the engine does not generate text with it",
            cure="choose a language model or an embedding model",
        )


def _bandwidth(
    memory: Memory, machine: Machine, parameters: Parameters
) -> tuple[int | None, Literal["measured", "driver"] | None]:
    """Return the read bandwidth of the memory that holds the weights, in bytes per second, and its source.

    With several GPUs it is that of the slowest.
    """
    if memory.on_gpu:
        reported = [gpu.bandwidth_bytes_per_s for gpu in machine.gpus if gpu.bandwidth_bytes_per_s is not None]
        return (min(reported), "driver") if reported else (None, None)
    measured = read_bandwidth(threads=parameters.n_threads, available_bytes=machine.ram_available_bytes)
    return (measured, "measured") if measured else (None, None)


def _prefill(length: int, runs: Mapping[str, Any]) -> LengthResult:
    first = runs["until_chosen_s"]
    return LengthResult(
        n_prompt=length,
        n_gen=0,
        prefill_tok_per_s=_rate(length, runs),
        decode_tok_per_s=None,
        spread=_spread(runs["s"]),
        repetitions=len(runs["s"]),
        time_to_first_token_s=round(median(first), 4) if first else None,
        energy_j_per_token=_energy(length, runs),
    )


def _decode(length: int, runs: Mapping[str, Any]) -> LengthResult:
    return LengthResult(
        n_prompt=0,
        n_gen=length,
        prefill_tok_per_s=None,
        decode_tok_per_s=_rate(length, runs),
        spread=_spread(runs["s"]),
        repetitions=len(runs["s"]),
        energy_j_per_token=_energy(length, runs),
    )


def _rate(length: int, runs: Mapping[str, Any]) -> float | None:
    return round(length / median(runs["s"]), 2) if runs["s"] else None


def _energy(length: int, runs: Mapping[str, Any]) -> float | None:
    joules = runs["energy_j"]
    return round(joules / (length * len(runs["s"])), 4) if joules is not None and runs["s"] else None


def _spread(seconds: Sequence[float]) -> float | None:
    return round((max(seconds) - min(seconds)) / median(seconds), 4) if seconds else None
