"""Measure the memory of a multimodal projector, which the engine loads in addition to its model.

    weights   the tensors as the file stores them: they are read into memory, not mapped
    compute   the scratch buffers for the largest image, which llama.cpp reports when it loads the projector

Unlike a model, a projector is loaded for that with its weights, since libmtmd has no load without them that another
program can ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paddock.engine import process
from paddock.errors import EngineCrashed
from paddock.gguf.reader import FileSource, read_header

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class ProjectorMemory:
    """Memory of a loaded projector in bytes, on all devices together."""

    weights_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.compute_bytes


def measure_projector(path: Path, *, threads: int, use_gpu: bool, timeout_s: float = _TIMEOUT_S) -> ProjectorMemory:
    """Load a local projector in an engine process, and return its memory.

    Raises NotGguf, MalformedGguf, NoSuchFile, NoPermission, EngineCrashed, EngineOutOfMemory.
    """
    with FileSource(path) as source:
        weights_bytes = sum(tensor.size_bytes for tensor in read_header(source).tensors)
    with process.open_shards(path) as descriptors:
        answer = process.run(
            "projector",
            {"path": process.paths_of(descriptors)[0], "threads": threads, "use_gpu": use_gpu},
            timeout_s=timeout_s,
            descriptors=descriptors,
        )
    compute_bytes = answer.result.get("compute_bytes")
    if not isinstance(compute_bytes, int) or not compute_bytes:
        raise EngineCrashed(
            "the engine loaded the projector but did not report its memory",
            cure="install the llama-cpp-python that Paddock pins",
        )
    return ProjectorMemory(weights_bytes, compute_bytes)
