"""The result of a benchmark: one document, which is stored as a report and shown to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from paddock.engine.oracle import Memory
from paddock.gguf.kind import ModelKind
from paddock.measure.load_test import LoadTest
from paddock.measure.roleplay import Roleplay
from paddock.model.hardware import Machine
from paddock.model.units import human_bytes

SCHEMA = 3
"""Version of the JSON document. Version 1 had one prompt length, one answer length, and no `schema`; version 2 did not
say whether it can be believed."""

_NOT_JUDGED = "an older version of Paddock measured it, which did not judge whether it can be believed"


@dataclass(frozen=True, slots=True)
class LengthResult:
    """LengthResult of one length: prefill of `n_prompt` tokens, or decode of `n_gen` tokens.

    The other length is 0, and its figure None. A length that was not measured has `repetitions` 0, and all figures
    None.
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
    def from_json(cls, value: Mapping[str, Any]) -> LengthResult:
        return cls(**{"prefill_tok_per_s": None, "decode_tok_per_s": None, **value})


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Results of a benchmark, with the machine, engine and parameters that they were measured with.

    `kind`              the model's kind (`paddock.gguf.kind`); one that embeds has no decode
    `canary`            the eight greedy tokens of the canary; none for a model that embeds
    `memory`            what the engine reported after the load
    `peak_rss_bytes`    peak resident memory of the engine's process
    `vram_bytes`        GPU memory in use after the measurement minus before the load
    `doubts`            why the figures cannot be believed; empty where they can
    `bandwidth_source`  whether the memory bandwidth was measured, or computed from the driver's figures
    `features`, `build` features of the engine's build; an id that tells apart two builds of one version
    `tuned`             whether `parameters` are those of a tuning
    `http`, `roleplay`  None if they were not requested
    `pool`              the Prefect work pool of the worker that measured it; None outside of one

    Fields with a default are None in a document of an older version.
    """

    results: tuple[LengthResult, ...]
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
    http: LoadTest | None = None
    kind: ModelKind = ModelKind.TEXT
    doubts: tuple[str, ...] = ()
    pool: str | None = None

    @property
    def reliable(self) -> bool:
        """Whether the figures can be believed. Those of older versions, which did not judge it, cannot."""
        return not self.doubts and self.schema >= 3

    @property
    def stated_doubts(self) -> tuple[str, ...]:
        """The doubts, for display: never empty where the figures cannot be believed."""
        return self.doubts if self.doubts or self.reliable else (_NOT_JUDGED,)

    @property
    def prefill_tok_per_s(self) -> float:
        return next(result.prefill_tok_per_s for result in self.results if result.prefill_tok_per_s is not None)

    @property
    def decode_tok_per_s(self) -> float:
        """Raises StopIteration for a model that embeds."""
        return next(result.decode_tok_per_s for result in self.results if result.decode_tok_per_s is not None)

    @property
    def on_gpu(self) -> bool:
        """Whether GPUs computed: there are some, the engine is built for them, and the parameters give them layers."""
        return bool(self.machine.gpus) and self.uses_gpus is not False and self.parameters.get("n_gpu_layers") != 0

    @property
    def processor(self) -> str:
        """What computed, for people: the GPUs, else the processor with its cores."""
        return (self.machine if self.on_gpu else replace(self.machine, gpus=())).name

    @property
    def weights_read_bytes_per_s(self) -> int:
        return round(self.memory.weights_bytes * self.decode_tok_per_s)

    @property
    def speeds(self) -> str:
        """The speeds in a few words, and whether they can be believed."""
        decode = "" if self.kind.embeds else f", decode {self.decode_tok_per_s:.1f} tokens/s"
        return f"prefill {self.prefill_tok_per_s:.1f} tokens/s{decode}{'' if self.reliable else ' (not reliable)'}"

    @property
    def line(self) -> str:
        """The speeds in one line, with why they cannot be believed, and why no GPU was used."""
        line = self.speeds
        if not self.reliable:
            line = f"{line.removesuffix(')')}: {'; '.join(self.stated_doubts)})"
        return line if self.machine.gpus else f"{line}, on the processor: {self.machine.why_no_gpu}"

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (test, median, spread) of each figure, for display. Each speed says so where it is not reliable."""
        mark = "" if self.reliable else " (not reliable)"
        rows = [
            (
                f"prefill of {result.n_prompt} tokens" if result.n_prompt else f"decode of {result.n_gen} tokens",
                "not measured" if result.tok_per_s is None else f"{result.tok_per_s:.1f} tokens/s{mark}",
                "" if result.spread is None else f"{result.spread:.1%}",
            )
            for result in self.results
        ]
        return [
            *([] if self.reliable else [("not reliable", "; ".join(self.stated_doubts), "")]),
            *rows,
            (
                "time to the embedding" if self.kind.embeds else "time to first token",
                f"{self.time_to_first_token_s * 1000:.0f} ms{mark}",
                "",
            ),
            *([] if self.kind.embeds else [("weights read by decode", self._bandwidth_text() + mark, "")]),
            ("load", f"{self.load_s:.2f} s", ""),
            ("peak memory of the engine's process", human_bytes(self.peak_rss_bytes), ""),
            ("GPU", self._gpu_text(), ""),
            *([(name, score, "") for name, score, _ in self.roleplay.rows()] if self.roleplay else []),
            *(self.http.rows() if self.http else []),
        ]

    def _bandwidth_text(self) -> str:
        read = f"{self.weights_read_bytes_per_s / 1e9:.1f} GB/s"
        if not self.bandwidth_bytes_per_s:
            return read
        share = self.weights_read_bytes_per_s / self.bandwidth_bytes_per_s
        source = "measured" if self.bandwidth_source == "measured" else "from its clock and bus"
        return f"{read}, {share:.0%} of the memory's {self.bandwidth_bytes_per_s / 1e9:.1f} GB/s ({source})"

    def _gpu_text(self) -> str:
        if not self.machine.gpus:
            return f"none: {self.machine.why_no_gpu}" if self.machine.why_no_gpu else "none"
        names = ", ".join(gpu.name for gpu in self.machine.gpus)
        if self.uses_gpus is False:
            return f"{names}: not used, since this engine was built without CUDA"
        held = "" if self.vram_bytes is None else f", {human_bytes(self.vram_bytes)} held"
        joules = next(
            (result.energy_j_per_token for result in self.results if result.n_gen and result.energy_j_per_token), None
        )
        return f"{names}{held}{'' if joules is None else f', {joules:.2f} J per decoded token'}"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "kind": self.kind,
            "measured_at": self.measured_at,
            "reliable": self.reliable,
            "doubts": list(self.doubts),
            "results": [result.to_json() for result in self.results],
            "time_to_first_token_s": self.time_to_first_token_s,
            "load_s": self.load_s,
            "memory": self.memory.to_json(),
            "peak_rss_bytes": self.peak_rss_bytes,
            "vram_bytes": self.vram_bytes,
            "weights_read_bytes_per_s": None if self.kind.embeds else self.weights_read_bytes_per_s,
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
            "pool": self.pool,
            "roleplay": self.roleplay.to_json() if self.roleplay else None,
            "http": self.http.to_json() if self.http else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Benchmark:
        """Read what `to_json` wrote, of this version or an older one."""
        names = {field.name for field in fields(cls)}
        return cls(
            **{
                **{key: value[key] for key in value if key in names},
                "results": tuple(LengthResult.from_json(result) for result in value["results"]),
                "memory": Memory.from_json(value["memory"]),
                "kind": ModelKind(value.get("kind", ModelKind.TEXT)),
                "canary": tuple(value["canary"]),
                "doubts": tuple(value.get("doubts", ())),
                "machine": Machine.from_json(value["machine"]),
                "roleplay": Roleplay.from_json(value["roleplay"]) if value.get("roleplay") else None,
                "http": LoadTest.from_json(value["http"]) if value.get("http") else None,
            }
        )
