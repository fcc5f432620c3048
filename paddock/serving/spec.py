"""What is served: a model's files, how it is spoken with, and the engine's parameters that were planned for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from paddock.chat.template import Chat
from paddock.engine import process
from paddock.engine.oracle import MARGIN_BYTES, Memory
from paddock.engine.parameters import Parameters
from paddock.planning.profile import Profile

_CUDA_BYTES = 2**30
"""What CUDA's own libraries hold of the host's memory, and some air."""


@dataclass(frozen=True, slots=True)
class ServeSpec:
    """`name` is what clients call the model, `file` its GGUF (the first shard of a split one) under a real path, and
    `memory` what the plan says that the engine takes with `parameters`."""

    name: str
    revision: str
    variant: str
    quantization: str | None
    file: Path
    chat: Chat
    parameters: Parameters
    memory: Memory
    profile: Profile

    @property
    def names(self) -> frozenset[str]:
        """The model names that clients may send: with variant and revision, or without."""
        full = f"{self.name}:{self.variant}"
        return frozenset({self.name, full, f"{self.name}@{self.revision}", f"{full}@{self.revision}"})

    @property
    def on_gpu(self) -> bool:
        """Whether the plan puts layers on a GPU, and the engine has one."""
        return self.parameters.n_gpu_layers != 0 and self.memory.on_gpu

    @property
    def margin_bytes(self) -> int:
        """What the engine's process may hold of the host's memory beside the plan."""
        return MARGIN_BYTES + (_CUDA_BYTES if self.memory.on_gpu else 0)  # also where no layer is on it


@dataclass(frozen=True, slots=True)
class OpenModel:
    """The files of an offer, held open: every start of the engine reads the same bytes, whatever happens to their
    names meanwhile. `names` are the files' own, which tell the engine of a split model where its other shards are."""

    names: tuple[str, ...]
    descriptors: tuple[int, ...]

    def link_in(self, home: Path) -> Path:
        """Let a directory show the files to a child that inherits the descriptors; returns the first."""
        for name, path in zip(self.names, process.paths_of(self.descriptors), strict=True):
            (home / name).symlink_to(path)
        return home / self.names[0]


@contextmanager
def open_model(offer: ServeSpec) -> Iterator[OpenModel]:
    """Raises NoSuchFile, NoPermission, MissingShard."""
    with ExitStack() as stack:
        descriptors = stack.enter_context(process.open_shards(offer.file))
        yield OpenModel(tuple(path.name for path in process.shards(offer.file)), descriptors)
