"""What a model will take in memory, said by the engine itself before anything is loaded.

llama.cpp with `no_alloc` loads a file whose tensor data is a hole, makes a context, and logs what each part would
take. So the whole file is not needed: its header, in a sparse file of the real size, gives the same numbers as the
real load, for any size of model in under a second.

    weights   the tensors, as the file stores them, and once more what this build repacks (`engine.repacking`)
    KV cache  keys and values of every token of context (or a recurrent model's state)
    compute   the engine's scratch buffers for a batch
    output    logits

The engine logs hundredths of a MiB: every figure but the weights is right to about 5 kB for each buffer. This module
does not say whether a machine has that much.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from paddock.engine import process
from paddock.engine.parameters import Parameters
from paddock.errors import EngineCrashed

MARGIN_BYTES = 256 * 2**20
"""What must stay free beside the model: the engine's own code and threads, and some air for the system."""
_TIMEOUT_S = 60.0
_MEMORY_LIMIT_BYTES = 4 * 2**30
_ROUNDING_BYTES = 2**20 // 100


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, in parts and in all. `source` is `engine` where llama.cpp said so, `analytic` where it was computed.

    `devices` are the engine's names of what computes (`CPU`, `CUDA0`), where it said them.
    """

    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    output_bytes: int
    source: Literal["engine", "analytic"]
    devices: tuple[str, ...] = field(default=(), compare=False)

    @property
    def on_gpu(self) -> bool:
        """Whether the engine has a GPU that computes."""
        return any(not device.startswith("CPU") for device in self.devices)

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes + self.output_bytes

    def parts(self) -> tuple[tuple[str, int], ...]:
        """Each part and the sum, by the names that people use."""
        return (
            ("weights", self.weights_bytes),
            ("KV cache", self.kv_cache_bytes),
            ("compute buffers", self.compute_bytes),
            ("output buffer", self.output_bytes),
            ("total", self.total_bytes),
        )

    def to_json(self) -> dict[str, int | str]:
        return {
            "weights_bytes": self.weights_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "compute_bytes": self.compute_bytes,
            "output_bytes": self.output_bytes,
            "total_bytes": self.total_bytes,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Memory:
        return cls(**{key: value[key] for key in value if key != "total_bytes"})


def measure_memory(
    path: Path, *, context_tokens: int, parameters: Parameters | None = None, timeout_s: float = _TIMEOUT_S
) -> Memory:
    """What a local GGUF (the first shard of a split one) will take with `context_tokens` of context.

    `parameters` are the ones that will serve, their `n_ctx` apart; by default llama.cpp's own. The file may be a
    header in a sparse file.

    Raises IncompatibleModel, MalformedGguf, ConflictingConfiguration, MissingShard, NoSuchFile, EngineCrashed,
    EngineOutOfMemory.
    """
    asked = replace(parameters or Parameters(n_ctx=context_tokens, n_threads=1), n_ctx=context_tokens)
    with process.opened(path) as descriptors:
        return measure_opened(descriptors, asked, timeout_s=timeout_s)


def measure_header(
    shards: Sequence[tuple[bytes, int]], asked: Sequence[Parameters], *, timeout_s: float = _TIMEOUT_S
) -> list[Memory]:
    """What a model will take with each of the parameters, from (header, size of the file in bytes) of each shard in
    order. A header ends where the tensor data begins. Many parameters cost little more than one: the header is loaded
    once.

    Raises as `measure_memory`, for the first of the parameters that the engine refuses.
    """
    with _hollow(shards) as descriptors:
        return _measure(descriptors, asked, timeout_s=timeout_s)


def measure_opened(descriptors: Sequence[int], parameters: Parameters, *, timeout_s: float = _TIMEOUT_S) -> Memory:
    """As `measure_memory`, for the shards that `process.opened` holds."""
    return _measure(descriptors, [parameters], timeout_s=timeout_s)[0]


def _measure(descriptors: Sequence[int], asked: Sequence[Parameters], *, timeout_s: float) -> list[Memory]:
    answer = process.run(
        "memory",
        {"paths": process.paths_of(descriptors), "parameters": [one.to_json() for one in asked]},
        timeout_s=timeout_s,
        memory_limit_bytes=_MEMORY_LIMIT_BYTES,
        descriptors=descriptors,
    )
    answers = answer.result.get("answers")
    said = [memory_said(one["weights_bytes"], one["lines"]) for one in answers] if isinstance(answers, list) else []
    if len(said) != len(asked) or not all(one.devices for one in said):
        raise EngineCrashed(
            "the engine loaded the model and did not say what it takes",
            cure="install the llama-cpp-python that Paddock pins",
        )
    return said


def memory_said(weights_bytes: int, lines: Mapping[str, Sequence[tuple[str, int]]]) -> Memory:
    """Put together what the engine logged: (buffer, bytes) for each of its lines, by kind.

    A hollow load logs no size for the model; a real one logs its buffers, and more of them than the weights where it
    repacks.
    """
    said = {kind: sum(size for _, size in entries) for kind, entries in lines.items()}
    buffers = said.get("model", 0)
    repacked = buffers > weights_bytes + _ROUNDING_BYTES * max(len(lines.get("model", ())), 1)
    return Memory(
        weights_bytes=buffers if repacked else weights_bytes,
        kv_cache_bytes=said.get("kv", 0) + said.get("state", 0),
        compute_bytes=said.get("compute", 0),
        output_bytes=said.get("output", 0),
        source="engine",
        devices=tuple(device for device, _ in lines.get("compute", ())),
    )


@contextmanager
def _hollow(shards: Sequence[tuple[bytes, int]]) -> Iterator[list[int]]:
    """Each header in an anonymous file of the real size: all behind it is a hole, and takes no memory."""
    descriptors: list[int] = []
    try:
        for header, size_bytes in shards:
            descriptor = os.memfd_create("gguf", os.MFD_CLOEXEC)
            descriptors.append(descriptor)
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(header)
            os.ftruncate(descriptor, max(size_bytes, len(header)))
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
