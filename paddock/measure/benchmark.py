"""How fast a model runs on this machine, and what it takes.

    prefill   n_prompt tokens at once into an empty context, in tokens a second. Bound by arithmetic; llama-bench's
              `pp256`
    decode    n_gen tokens one by one into an empty context, in tokens a second. Bound by memory: each token reads
              every weight once (of a mixture of experts, the chosen ones); llama-bench's `tg64`
    time to first token
              from an empty context to the choice of the first token behind a prompt of n_prompt: what a user waits
              for when a request is alone, less the HTTP server
    energy    joules a token, of the GPUs alone, as their driver counts them
    spread    (slowest - fastest) / median of the repetitions. 0.05 is a quiet machine; two results that differ by
              less than their spreads are equal

Tokens are random, the same in every run, since the time does not depend on the text. One warm-up is not counted; then
three repetitions, five where one takes less than a second, or twenty, behind a warm-up of their own, where that is a
twentieth of one; figures are medians. The context is emptied between them. The first length of prompt and of answer is
always measured; another one only where it is likely to end within the limit of time. What was not measured is None.

Beside decode stands its ceiling: the weights' bytes times tokens a second were read, and no more can be read than the
memory's bandwidth allows. For a processor it is measured (`paddock.measure.bandwidth`), for a GPU it is what its
driver says of clock and bus.

Before the file is loaded, the engine says what it will take (`engine.oracle`), and a machine that has less is not
tried. After the load, eight greedy tokens must have finite logits that differ: a benchmark of garbage is not a
result. This module does not judge how good the answers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from paddock.engine import process
from paddock.engine.facts import engine_build, engine_version
from paddock.engine.oracle import Memory, measure_descriptors, memory_from_log
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting
from paddock.measure.bandwidth import read_bandwidth
from paddock.measure.load_test import Sweep
from paddock.measure.roleplay import Roleplay
from paddock.model.hardware import Machine, this_machine
from paddock.model.units import human_bytes
from paddock.planning.fitting import check_fits

SCHEMA = 2
"""1 had one length of prompt and one of answer, and no `schema`."""
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """A prompt of `n_prompt` tokens, or `n_gen` tokens one by one; the other is 0, and its figure None.

    `repetitions` is 0 where it was not measured, and every figure None.
    """

    n_prompt: int
    n_gen: int
    prefill_tok_per_s: float | None
    decode_tok_per_s: float | None
    spread: float | None
    repetitions: int
    time_to_first_token_s: float | None = None
    energy_j_per_token: float | None = None

    @property
    def tok_per_s(self) -> float | None:
        return self.prefill_tok_per_s if self.n_prompt else self.decode_tok_per_s

    def to_json(self) -> dict[str, int | float | None]:
        figures: dict[str, int | float | None] = (
            {"prefill_tok_per_s": self.prefill_tok_per_s, "time_to_first_token_s": self.time_to_first_token_s}
            if self.n_prompt
            else {"decode_tok_per_s": self.decode_tok_per_s}
        )
        return {
            "n_prompt": self.n_prompt,
            "n_gen": self.n_gen,
            **figures,
            "spread": self.spread,
            "repetitions": self.repetitions,
            "energy_j_per_token": self.energy_j_per_token,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        return cls(**{"prefill_tok_per_s": None, "decode_tok_per_s": None, **value})


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`canary` are the eight greedy tokens, `memory` is what the engine took, `peak_rss_bytes` its process at most, and
    `vram_bytes` what the GPUs held more of after it than before. `bandwidth_source` says who told the ceiling.
    `features` is what the engine's build says of itself, `build` tells two builds of one version apart. `tuned` says
    whether `parameters` are those of a tuning. `http` and `roleplay` are None where they were not asked for, and all
    that has a default is None in what an older Paddock wrote.
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
    schema: int = 1
    measured_at: str | None = None
    build: str | None = None
    features: str | None = None
    uses_gpus: bool | None = None
    vram_bytes: int | None = None
    bandwidth_bytes_per_s: int | None = None
    bandwidth_source: Literal["measured", "driver"] | None = None
    tuned: bool | None = None
    http: Sweep | None = None

    @property
    def prefill_tok_per_s(self) -> float:
        return next(one.prefill_tok_per_s for one in self.results if one.prefill_tok_per_s is not None)

    @property
    def decode_tok_per_s(self) -> float:
        return next(one.decode_tok_per_s for one in self.results if one.decode_tok_per_s is not None)

    @property
    def weights_read_bytes_per_s(self) -> int:
        return round(self.memory.weights_bytes * self.decode_tok_per_s)

    def rows(self) -> list[tuple[str, str, str]]:
        """(test, median, spread) as people read them."""
        rows = [
            (
                f"prefill of {one.n_prompt} tokens" if one.n_prompt else f"decode of {one.n_gen} tokens",
                "not measured" if one.tok_per_s is None else f"{one.tok_per_s:.1f} tokens/s",
                "" if one.spread is None else f"{one.spread:.1%}",
            )
            for one in self.results
        ]
        return [
            *rows,
            ("time to first token", f"{self.time_to_first_token_s * 1000:.0f} ms", ""),
            ("weights read by decode", self._ceiling(), ""),
            ("load", f"{self.load_s:.2f} s", ""),
            ("peak memory of the engine's process", human_bytes(self.peak_rss_bytes), ""),
            ("GPU", self._gpu(), ""),
            *([(name, kept, "") for name, kept, _ in self.roleplay.rows()] if self.roleplay else []),
            *(self.http.rows() if self.http else []),
        ]

    def _ceiling(self) -> str:
        read = f"{self.weights_read_bytes_per_s / 1e9:.1f} GB/s"
        if not self.bandwidth_bytes_per_s:
            return read
        share = self.weights_read_bytes_per_s / self.bandwidth_bytes_per_s
        source = "measured" if self.bandwidth_source == "measured" else "by its clock and bus"
        return f"{read}, {share:.0%} of the memory's {self.bandwidth_bytes_per_s / 1e9:.1f} GB/s ({source})"

    def _gpu(self) -> str:
        if not self.machine.gpus:
            return f"none: {self.machine.why_no_gpu}" if self.machine.why_no_gpu else "none"
        names = ", ".join(gpu.name for gpu in self.machine.gpus)
        if self.uses_gpus is False:
            return f"{names}: not used, since this engine was built without CUDA"
        held = "" if self.vram_bytes is None else f", {human_bytes(self.vram_bytes)} held"
        joules = next((one.energy_j_per_token for one in self.results if one.n_gen and one.energy_j_per_token), None)
        return f"{names}{held}{'' if joules is None else f', {joules:.2f} J a token of decode'}"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "measured_at": self.measured_at,
            "results": [result.to_json() for result in self.results],
            "time_to_first_token_s": self.time_to_first_token_s,
            "load_s": self.load_s,
            "memory": self.memory.to_json(),
            "peak_rss_bytes": self.peak_rss_bytes,
            "vram_bytes": self.vram_bytes,
            "weights_read_bytes_per_s": self.weights_read_bytes_per_s,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "bandwidth_source": self.bandwidth_source,
            "canary": list(self.canary),
            "machine": self.machine.to_json(),
            "engine": self.engine,
            "build": self.build,
            "features": self.features,
            "uses_gpus": self.uses_gpus,
            "parameters": self.parameters,
            "tuned": self.tuned,
            "roleplay": self.roleplay.to_json() if self.roleplay else None,
            "http": self.http.to_json() if self.http else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Benchmark:
        """Read what `to_json` wrote, of this version or an older one."""
        known = {field.name for field in fields(cls)}
        return cls(
            **{
                **{key: value[key] for key in value if key in known},
                "results": tuple(Result.from_json(result) for result in value["results"]),
                "memory": Memory.from_json(value["memory"]),
                "canary": tuple(value["canary"]),
                "machine": Machine.from_json(value["machine"]),
                "roleplay": Roleplay.from_json(value["roleplay"]) if value.get("roleplay") else None,
                "http": Sweep.from_json(value["http"]) if value.get("http") else None,
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
    more_prompts: Sequence[int] = (),
    more_gens: Sequence[int] = (),
    limit_s: float = LIMIT_S,
    timeout_s: float = 1800.0,
    machine: Machine | None = None,
) -> Benchmark:
    """Benchmark a local GGUF (the first shard of a split one) in the engine's own process.

    `parameters` win over `threads` (by default every core) and `context_tokens`. `more_prompts` and `more_gens` are
    other lengths to measure while less than `limit_s` have passed; those that the context does not hold are left out.
    `machine` is this one, and given only where it is known already.

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
    prompts = (n_prompt, *(one for one in more_prompts if one != n_prompt and one <= parameters.n_ctx))
    generations = (n_gen, *(one for one in more_gens if one != n_gen and one <= parameters.n_ctx))
    with process.open_shards(path) as descriptors:
        # The same descriptors for the estimate and for the load: what was measured is what is loaded.
        estimate = measure_descriptors(descriptors, parameters)
        check_fits(path, parameters, estimate, machine)
        said: Mapping[str, Any] = process.run(
            "benchmark",
            {
                "paths": process.paths_of(descriptors),
                "parameters": parameters.to_json(),
                "prompts": prompts,
                "generations": generations,
                "limit_s": min(limit_s, timeout_s / 2),
            },
            timeout_s=timeout_s,
            descriptors=descriptors,
        ).result
    memory = memory_from_log(said["weights_bytes"], said["lines"])
    bandwidth, source = _ceiling(memory, machine, parameters)
    prefill = [_prefill(length, one) for length, one in zip(prompts, said["prefill"], strict=True)]
    decode = [_decode(length, one) for length, one in zip(generations, said["decode"], strict=True)]
    return Benchmark(
        results=(prefill[0], decode[0], *prefill[1:], *decode[1:]),
        time_to_first_token_s=round(median(said["prefill"][0]["until_chosen_s"]), 4),
        load_s=round(said["load_s"], 3),
        memory=memory,
        peak_rss_bytes=said["peak_rss_bytes"],
        canary=tuple(said["canary"]),
        machine=machine,
        engine=engine,
        parameters=parameters.to_json(),
        schema=SCHEMA,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        build=engine_build(),
        features=said["features"],
        uses_gpus=said["uses_gpus"],
        vram_bytes=said["vram_bytes"],
        bandwidth_bytes_per_s=bandwidth,
        bandwidth_source=source,
    )


def _ceiling(
    memory: Memory, machine: Machine, parameters: Parameters
) -> tuple[int | None, Literal["measured", "driver"] | None]:
    """What the memory that holds the weights can be read with: that of the slowest GPU, where one computes."""
    if memory.on_gpu:
        told = [gpu.bandwidth_bytes_per_s for gpu in machine.gpus if gpu.bandwidth_bytes_per_s is not None]
        return (min(told), "driver") if told else (None, None)
    measured = read_bandwidth(threads=parameters.n_threads, available_bytes=machine.ram_available_bytes)
    return (measured, "measured") if measured else (None, None)


def _prefill(length: int, said: Mapping[str, Any]) -> Result:
    first = said["until_chosen_s"]
    return Result(
        n_prompt=length,
        n_gen=0,
        prefill_tok_per_s=_rate(length, said),
        decode_tok_per_s=None,
        spread=_spread(said["s"]),
        repetitions=len(said["s"]),
        time_to_first_token_s=round(median(first), 4) if first else None,
        energy_j_per_token=_energy(length, said),
    )


def _decode(length: int, said: Mapping[str, Any]) -> Result:
    return Result(
        n_prompt=0,
        n_gen=length,
        prefill_tok_per_s=None,
        decode_tok_per_s=_rate(length, said),
        spread=_spread(said["s"]),
        repetitions=len(said["s"]),
        energy_j_per_token=_energy(length, said),
    )


def _rate(length: int, said: Mapping[str, Any]) -> float | None:
    return round(length / median(said["s"]), 2) if said["s"] else None


def _energy(length: int, said: Mapping[str, Any]) -> float | None:
    taken = said["energy_j"]
    return round(taken / (length * len(said["s"])), 4) if taken is not None and said["s"] else None


def _spread(seconds: Sequence[float]) -> float | None:
    return round((max(seconds) - min(seconds)) / median(seconds), 4) if seconds else None
