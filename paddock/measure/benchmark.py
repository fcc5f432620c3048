"""How fast a model runs on this machine, and what it takes.

    prefill   n_prompt tokens at once into an empty context, in tokens a second. Bound by arithmetic; llama-bench's
              `pp256`
    decode    n_gen tokens one by one into an empty context, in tokens a second. Bound by memory: each token reads
              every weight once (of a mixture of experts, the chosen ones); llama-bench's `tg64`
    time to first token
              from an empty context to the choice of the first token behind a prompt of n_prompt: what a user waits
              for when a request is alone, less the HTTP server
    spread    (slowest - fastest) / median of the repetitions. 0.05 is a quiet machine; two results that differ by
              less than their spreads are equal

Tokens are random, the same in every run, since the time does not depend on the text. One warm-up is not counted; then
three repetitions, or five where one takes less than a second; figures are medians. The context is emptied between
them.

Beside decode stands its ceiling: the weights' bytes times tokens a second were read, and no more can be read than the
memory's bandwidth allows. That is null on a machine whose driver does not say.

Before the file is loaded, the engine says what it will take (`engine.oracle`), and a machine that has less is not
tried. After the load, eight greedy tokens must have finite logits that differ: a benchmark of garbage is not a
result. This module does not judge how good the answers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from paddock.engine import process
from paddock.engine.facts import engine_version
from paddock.engine.oracle import MARGIN_BYTES, Memory, measure_opened, memory_said
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting, DoesNotFit
from paddock.measure.roleplay import Roleplay
from paddock.model.hardware import Machine, this_machine
from paddock.model.units import human_bytes


@dataclass(frozen=True, slots=True)
class Result:
    """A prompt of `n_prompt` tokens, or `n_gen` tokens one by one; the other is 0, and its figure None."""

    n_prompt: int
    n_gen: int
    prefill_tok_per_s: float | None
    decode_tok_per_s: float | None
    spread: float
    repetitions: int

    def to_json(self) -> dict[str, int | float]:
        figure: dict[str, int | float] = {}
        if self.prefill_tok_per_s is not None:
            figure["prefill_tok_per_s"] = self.prefill_tok_per_s
        if self.decode_tok_per_s is not None:
            figure["decode_tok_per_s"] = self.decode_tok_per_s
        return {
            "n_prompt": self.n_prompt,
            "n_gen": self.n_gen,
            **figure,
            "spread": self.spread,
            "repetitions": self.repetitions,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        return cls(**{"prefill_tok_per_s": None, "decode_tok_per_s": None, **value})


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`canary` are the eight greedy tokens, `memory` is what the engine took, `peak_rss_bytes` its process at most.
    `roleplay` is None where it was not asked for.
    """

    results: tuple[Result, ...]
    time_to_first_token_s: float
    load_s: float
    memory: Memory
    peak_rss_bytes: int
    canary: tuple[int, ...]
    machine: Machine
    engine: str
    parameters: dict[str, Any]
    roleplay: Roleplay | None = None

    @property
    def prefill_tok_per_s(self) -> float:
        return next(one.prefill_tok_per_s for one in self.results if one.prefill_tok_per_s is not None)

    @property
    def decode_tok_per_s(self) -> float:
        return next(one.decode_tok_per_s for one in self.results if one.decode_tok_per_s is not None)

    @property
    def bandwidth_bytes_per_s(self) -> int | None:
        """The ceiling of what decode can read: that of the slowest GPU, or None where there is none that says."""
        told = [gpu.bandwidth_bytes_per_s for gpu in self.machine.gpus if gpu.bandwidth_bytes_per_s is not None]
        return min(told, default=None)

    def rows(self) -> list[tuple[str, str, str]]:
        """(test, median, spread) as people read them."""
        rows = [
            (f"prefill of {one.n_prompt} tokens", f"{one.prefill_tok_per_s:.1f} tokens/s", f"{one.spread:.1%}")
            if one.prefill_tok_per_s is not None
            else (f"decode of {one.n_gen} tokens", f"{one.decode_tok_per_s:.1f} tokens/s", f"{one.spread:.1%}")
            for one in self.results
        ]
        return [
            *rows,
            ("time to first token", f"{self.time_to_first_token_s * 1000:.0f} ms", ""),
            ("load", f"{self.load_s:.2f} s", ""),
            ("peak memory of the engine's process", human_bytes(self.peak_rss_bytes), ""),
            *([(name, kept, "") for name, kept, _ in self.roleplay.rows()] if self.roleplay else []),
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "results": [result.to_json() for result in self.results],
            "time_to_first_token_s": self.time_to_first_token_s,
            "load_s": self.load_s,
            "memory": self.memory.to_json(),
            "peak_rss_bytes": self.peak_rss_bytes,
            "weights_read_bytes_per_s": round(self.memory.weights_bytes * self.decode_tok_per_s),
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "canary": list(self.canary),
            "machine": self.machine.to_json(),
            "engine": self.engine,
            "parameters": self.parameters,
            "roleplay": self.roleplay.to_json() if self.roleplay else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Benchmark:
        """Read what `to_json` wrote."""
        derived = {"weights_read_bytes_per_s", "bandwidth_bytes_per_s"}
        return cls(
            **{
                **{key: value[key] for key in value if key not in derived},
                "results": tuple(Result.from_json(result) for result in value["results"]),
                "memory": Memory.from_json(value["memory"]),
                "canary": tuple(value["canary"]),
                "machine": Machine.from_json(value["machine"]),
                "roleplay": Roleplay.from_json(value["roleplay"]) if value.get("roleplay") else None,
            }
        )


def benchmark(
    path: Path,
    *,
    parameters: Parameters | None = None,
    threads: int | None = None,
    context_tokens: int = 2048,
    n_prompt: int = 256,
    n_gen: int = 64,
    timeout_s: float = 1800.0,
    machine: Machine | None = None,
) -> Benchmark:
    """Benchmark a local GGUF (the first shard of a split one) in the engine's own process.

    `parameters` win over `threads` (by default every core) and `context_tokens`. `machine` is this one, and given
    only where it is known already.

    Raises DoesNotFit before the file is loaded, ModelRejected when the answers are garbage, and what `process.run`
    raises.
    """
    engine = f"llama-cpp-python {engine_version()}"
    machine = machine or this_machine()
    parameters = parameters or Parameters(n_ctx=context_tokens, n_threads=threads or machine.cores)
    if not 1 <= max(n_prompt, n_gen) <= parameters.n_ctx or min(n_prompt, n_gen) < 1:
        raise BadSetting(
            f"n_prompt {n_prompt} and n_gen {n_gen} must each be from 1 to n_ctx, which is {parameters.n_ctx}"
        )
    with process.opened(path) as descriptors:
        # The same descriptors for the estimate and for the load: what was measured is what is loaded.
        estimate = measure_opened(descriptors, parameters)
        check_fits(estimate, machine, what=path.name, context_tokens=parameters.n_ctx)
        said = process.run(
            "benchmark",
            {
                "paths": process.paths_of(descriptors),
                "parameters": parameters.to_json(),
                "n_prompt": n_prompt,
                "n_gen": n_gen,
            },
            timeout_s=timeout_s,
            descriptors=descriptors,
        ).result
    return _benchmark(said, n_prompt=n_prompt, n_gen=n_gen, machine=machine, engine=engine, parameters=parameters)


def check_fits(memory: Memory, machine: Machine, *, what: str, context_tokens: int) -> None:
    """Raise DoesNotFit when `memory` and the margin are more than is free, the GPUs' too where the engine uses them."""
    uses_gpu = any(not device.startswith("CPU") for device in memory.devices)
    available_bytes = machine.ram_available_bytes + (
        sum(gpu.vram_available_bytes for gpu in machine.gpus) if uses_gpu else 0
    )
    needed_bytes = memory.total_bytes + MARGIN_BYTES
    if needed_bytes > available_bytes:
        raise DoesNotFit(
            f"{what} needs {human_bytes(needed_bytes)} (weights {human_bytes(memory.weights_bytes)},"
            f" KV cache of {context_tokens} tokens {human_bytes(memory.kv_cache_bytes)},"
            f" compute and output {human_bytes(memory.compute_bytes + memory.output_bytes)},"
            f" margin {human_bytes(MARGIN_BYTES)}), and {human_bytes(available_bytes)} is available",
            cure="choose a smaller quantization or a smaller context, or free memory",
        )


def _benchmark(
    said: Mapping[str, Any], *, n_prompt: int, n_gen: int, machine: Machine, engine: str, parameters: Parameters
) -> Benchmark:
    prefill, decode = said["prefill_s"], said["decode_s"]
    return Benchmark(
        results=(
            Result(n_prompt, 0, round(n_prompt / median(prefill), 2), None, _spread(prefill), len(prefill)),
            Result(0, n_gen, None, round(n_gen / median(decode), 2), _spread(decode), len(decode)),
        ),
        time_to_first_token_s=round(median(said["first_token_s"]), 4),
        load_s=round(said["load_s"], 3),
        memory=memory_said(said["weights_bytes"], said["lines"]),
        peak_rss_bytes=said["peak_rss_bytes"],
        canary=tuple(said["canary"]),
        machine=machine,
        engine=engine,
        parameters=parameters.to_json(),
    )


def _spread(seconds: Sequence[float]) -> float:
    return round((max(seconds) - min(seconds)) / median(seconds), 4)
