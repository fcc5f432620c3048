"""Which models can be served, by kind, and the projector of a snapshot that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from paddock.chat.template import ChatFormat
from paddock.engine.projector import measure_projector
from paddock.errors import ConflictingConfiguration
from paddock.gguf.directory import local_kind
from paddock.gguf.header import Header
from paddock.gguf.kind import ModelKind, states_pooling
from paddock.gguf.reader import FileSource, read_header
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine
from paddock.model.quantization import group_shards

SERVED: Final = frozenset({ModelKind.TEXT, ModelKind.EMBEDDING, ModelKind.RERANKER})
_CURE: Final = "serve a language model, an embedding model or a reranker"
_REASONS: Final[Mapping[ModelKind, str]] = MappingProxyType(
    {
        ModelKind.ENCODER_DECODER: "llama-server runs no encoder",
        ModelKind.DIFFUSION: "llama-server generates text token by token only",
        ModelKind.SPEECH: "llama-server generates text only",
    }
)
_WHOLE_IMAGES: Final = frozenset({"gemma4v", "gemma4uv", "deepseek4v"})
"""Types of projectors whose models compute an image in one batch, and end the engine if it is larger. Gemma 3's images
have 256 tokens, which is never too large."""
NO_CHAT: Final = ChatFormat(
    template="{% for message in messages %}{{ message.content }}{% endfor %}",
    origin="none",
    why="nobody chats with it",
    bos="",
    eos="",
    stop=(),
)
"""The chat format of a model that answers no chats. It keeps the engine from reading a template that was not audited
out of the model's file."""


def require_servable(manifest: Manifest, kind: ModelKind) -> None:
    """Raise ConflictingConfiguration for a model of a kind that llama-server does not serve."""
    if kind in SERVED:
        return
    reason = _REASONS.get(kind, "it is no model by itself, and is loaded in addition to one")
    raise ConflictingConfiguration(f"{manifest.id.name} is {kind.noun}, which is not served: {reason}", cure=_CURE)


def added_pooling(header: Header, kind: ModelKind) -> str | None:
    """llama-server's `--pooling` for an embedding model whose header states none: the mean of its token vectors, as
    most embedding models are trained. None where none is needed."""
    return "mean" if kind is ModelKind.EMBEDDING and not states_pooling(header) else None


@dataclass(frozen=True, slots=True)
class ServedProjector:
    """The projector that is loaded beside a model, and its memory."""

    path: Path
    total_bytes: int
    computes_whole_images: bool

    def left_by(self, machine: Machine) -> Machine:
        """The machine without the memory of the projector: of its host, and of the first GPU, which computes it."""

        def less(available_bytes: int) -> int:
            return max(available_bytes - self.total_bytes, 0)

        gpus = tuple(
            replace(gpu, vram_available_bytes=less(gpu.vram_available_bytes)) if number == 0 else gpu
            for number, gpu in enumerate(machine.gpus)
        )
        return replace(machine, ram_available_bytes=less(machine.ram_available_bytes), gpus=gpus)


def projector_of(manifest: Manifest, snapshot: Path, model: str, machine: Machine) -> ServedProjector | None:
    """The projector in a snapshot beside the file `model`, loaded once to measure it; None if it has none.

    Raises as `measure_projector`.
    """
    sets = group_shards((file.path, file.size) for file in manifest.files)
    for other in sets:
        path = snapshot / other.first
        if model not in other.paths and local_kind(path) is ModelKind.PROJECTOR:
            memory = measure_projector(path, threads=machine.cores, use_gpu=bool(machine.gpus))
            return ServedProjector(path, memory.total_bytes, computes_whole_images(path))
    return None


def computes_whole_images(projector: Path) -> bool:
    """Whether the model of a projector computes an image in one batch, of which the projector decides the size."""
    with FileSource(projector) as source:
        metadata = read_header(source).metadata
    types = {metadata.get(key) for key in ("clip.projector_type", "clip.vision.projector_type")}
    return not types.isdisjoint(_WHOLE_IMAGES)
