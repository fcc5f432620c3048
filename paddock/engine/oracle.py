"""Memory that a model will take, computed by llama.cpp itself before the model is loaded.

With `no_alloc`, llama.cpp loads a file whose tensor data is a hole, creates a context, and logs the size of each
buffer. So the whole file is not needed: its header in a sparse file of the real size gives the same numbers as the real
load, in under a second for a model of any size.

    weights   the tensors as the file stores them, plus a copy of those that this build repacks (`engine.repacking`)
    KV cache  keys and values of every token of context (or a recurrent model's state)
    compute   the engine's scratch buffers for a batch
    output    logits, and embeddings: those of a whole batch for a model that embeds

The engine logs hundredths of a MiB, so every figure except the weights is accurate to about 5 kB for each buffer.
Whether a machine has that much memory is left to `planning.fitting`.
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
"""Memory that must stay free besides the model's: the engine's code and threads, and a reserve for the system."""
_TIMEOUT_S = 60.0
_MEMORY_LIMIT_BYTES = 4 * 2**30
_ROUNDING_BYTES = 2**20 // 100


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a loaded model in bytes, by part.

    `projector_bytes` are those of a multimodal projector beside the model, with its own compute buffers.
    `source` is `engine` if llama.cpp reported it, `analytic` if it was computed from the header. `devices` are the
    engine's names of the devices that compute (`CPU`, `CUDA0`), empty if unknown.
    """

    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    output_bytes: int
    source: Literal["engine", "analytic"]
    devices: tuple[str, ...] = field(default=(), compare=False)
    projector_bytes: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether the engine computes on a GPU."""
        return any(not device.startswith("CPU") for device in self.devices)

    @property
    def total_bytes(self) -> int:
        model_bytes = self.weights_bytes + self.kv_cache_bytes + self.compute_bytes + self.output_bytes
        return model_bytes + self.projector_bytes

    def parts(self) -> tuple[tuple[str, int], ...]:
        """Return (label, bytes) of each part and of the total, for display."""
        return (
            ("weights", self.weights_bytes),
            ("KV cache", self.kv_cache_bytes),
            ("compute buffers", self.compute_bytes),
            ("output buffer", self.output_bytes),
            *([("projector", self.projector_bytes)] if self.projector_bytes else []),
            ("total", self.total_bytes),
        )

    def to_json(self) -> dict[str, int | str]:
        return {
            "weights_bytes": self.weights_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "compute_bytes": self.compute_bytes,
            "output_bytes": self.output_bytes,
            **({"projector_bytes": self.projector_bytes} if self.projector_bytes else {}),
            "total_bytes": self.total_bytes,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Memory:
        return cls(**{key: value[key] for key in value if key != "total_bytes"})


def measure_memory(
    path: Path, *, context_tokens: int, parameters: Parameters | None = None, timeout_s: float = _TIMEOUT_S
) -> Memory:
    """Estimate the memory of a local GGUF (the first shard of a split one) with `context_tokens` of context.

    `parameters` are those that the model will run with, except for `n_ctx`; by default llama.cpp's own. The file may be
    a header in a sparse file.

    Raises IncompatibleModel, MalformedGguf, ConflictingConfiguration, MissingShard, NoSuchFile, EngineCrashed,
    EngineOutOfMemory.
    """
    wanted = replace(parameters or Parameters(n_ctx=context_tokens, n_threads=1), n_ctx=context_tokens)
    with process.open_shards(path) as descriptors:
        return measure_descriptors(descriptors, wanted, timeout_s=timeout_s)


def measure_header(
    shards: Sequence[tuple[bytes, int]], requested: Sequence[Parameters], *, timeout_s: float = _TIMEOUT_S
) -> list[Memory]:
    """Estimate the memory of a model with each of the parameters, from its header alone.

    `shards` holds (header, file size in bytes) of each shard in order; a header ends where the tensor data begins. Many
    parameters cost little more than one, since the header is loaded once.

    Raises as `measure_memory`, for the first of the parameters that the engine refuses.
    """
    with _sparse_files(shards) as descriptors:
        return _measure(descriptors, requested, timeout_s=timeout_s)


def measure_descriptors(descriptors: Sequence[int], parameters: Parameters, *, timeout_s: float = _TIMEOUT_S) -> Memory:
    """Variant of `measure_memory` for shards that `process.open_shards` holds open."""
    return _measure(descriptors, [parameters], timeout_s=timeout_s)[0]


def _measure(descriptors: Sequence[int], requested: Sequence[Parameters], *, timeout_s: float) -> list[Memory]:
    answer = process.run(
        "memory",
        {"paths": process.paths_of(descriptors), "parameters": [parameters.to_json() for parameters in requested]},
        timeout_s=timeout_s,
        memory_limit_bytes=_MEMORY_LIMIT_BYTES,
        descriptors=descriptors,
    )
    answers = answer.result.get("answers")
    estimates = (
        [_with_output(memory_from_log(one["weights_bytes"], one["lines"]), one["output_bytes"]) for one in answers]
        if isinstance(answers, list)
        else []
    )
    if len(estimates) != len(requested) or not all(memory.devices for memory in estimates):
        raise EngineCrashed(
            "the engine loaded the model but did not report its memory",
            cure="install the llama-cpp-python that Paddock pins",
        )
    return estimates


def _with_output(memory: Memory, output_bytes: int) -> Memory:
    """The memory with at least that size of the output buffer."""
    return replace(memory, output_bytes=max(memory.output_bytes, output_bytes))


def memory_from_log(weights_bytes: int, lines: Mapping[str, Sequence[tuple[str, int]]]) -> Memory:
    """Add up the buffer sizes that the engine logged: (buffer, bytes) of each line, by kind (see `bindings.Log`).

    A load with `no_alloc` logs no size for the model. A real load logs the model's buffers, which are larger than the
    weights where it repacks.
    """
    sizes = {kind: sum(size for _, size in entries) for kind, entries in lines.items()}
    buffers = sizes.get("model", 0)
    repacked = buffers > weights_bytes + _ROUNDING_BYTES * max(len(lines.get("model", ())), 1)
    return Memory(
        weights_bytes=buffers if repacked else weights_bytes,
        kv_cache_bytes=sizes.get("kv", 0) + sizes.get("state", 0),
        compute_bytes=sizes.get("compute", 0),
        output_bytes=sizes.get("output", 0),
        source="engine",
        devices=tuple(device for device, _ in lines.get("compute", ())),
    )


@contextmanager
def _sparse_files(shards: Sequence[tuple[bytes, int]]) -> Iterator[list[int]]:
    """Write each header to an anonymous file of the real size; the rest is a hole and takes no memory."""
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
