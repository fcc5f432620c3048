"""Specification of what to serve: the model's files, its chat template and the planned engine parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from paddock.chat.template import ChatFormat
from paddock.engine import process
from paddock.engine.oracle import MARGIN_BYTES, Memory
from paddock.engine.parameters import Parameters
from paddock.gguf.kind import ModelKind
from paddock.model.names import ModelName, Revision
from paddock.model.reference import SnapshotId, Variant
from paddock.planning.profile import Profile

_PROJECTOR_LINK = "projector"
"""Name of the link to the projector. No shard has it: their names end in `.gguf`."""
_CUDA_BYTES = 2**30
"""Host memory that CUDA's libraries hold, with a reserve."""


def _no_check() -> None:
    """Check nothing: the files are no snapshot's."""


@dataclass(frozen=True, slots=True)
class ServeSpec:
    """A model to serve, and how.

    `name` is the model name that clients use, `file` its GGUF (the first shard of a split one), and `memory` the
    planned memory of the engine with `parameters`. `projector` is the GGUF that turns images into tokens,
    `image_max_tokens` bounds an image where the projector's own bound is too large, `pooling` is how an embedding
    model's token vectors become one, as llama-server's option, where its header does not say it, and
    `vocabulary_tokens` the number of its tokens, None if it is not known.

    `check_files` raises CorruptFile if the files were changed since they were compared with the manifest. It may read
    them as a whole, and can be called from any thread.
    """

    name: str
    revision: str
    variant: str
    quantization: str | None
    file: Path
    chat: ChatFormat
    parameters: Parameters
    memory: Memory
    profile: Profile
    kind: ModelKind = ModelKind.TEXT
    projector: Path | None = None
    image_max_tokens: int | None = None
    pooling: str | None = None
    vocabulary_tokens: int | None = None
    check_files: Callable[[], None] = field(default=_no_check, compare=False, repr=False)

    @property
    def context_tokens(self) -> int:
        """Context of one request."""
        return self.parameters.n_ctx // self.parameters.n_seq_max

    @property
    def has_vision(self) -> bool:
        """Whether messages may hold images."""
        return self.projector is not None

    @property
    def names(self) -> frozenset[str]:
        """Model names that clients may send: with or without variant and revision."""
        full = f"{self.name}:{self.variant}"
        return frozenset({self.name, full, f"{self.name}@{self.revision}", f"{full}@{self.revision}"})

    @property
    def id(self) -> SnapshotId:
        return SnapshotId(ModelName.parse(self.name), Revision(self.revision), Variant(self.variant))

    @property
    def label(self) -> str:
        """`<variant>@<revision>`."""
        return f"{self.variant}@{self.revision}"

    @property
    def on_gpu(self) -> bool:
        """Whether the plan puts layers on a GPU, and the engine has one."""
        return self.parameters.n_gpu_layers != 0 and self.memory.on_gpu

    @property
    def margin_bytes(self) -> int:
        """Host memory that the engine's process may use beyond the plan."""
        return MARGIN_BYTES + (_CUDA_BYTES if self.memory.on_gpu else 0)  # also if no layer is on the GPU


@dataclass(frozen=True, slots=True)
class OpenModel:
    """The files of a model, held open, so that every start of the engine reads the same bytes even if they are renamed.

    `names` are the files' own names: the engine derives the names of a split model's other shards from the first. The
    projector, if there is one, is the last of the descriptors.
    """

    names: tuple[str, ...]
    descriptors: tuple[int, ...]
    has_projector: bool = False

    def link_into(self, directory: Path) -> tuple[Path, Path | None]:
        """Link the files into a directory, for a child that inherits the descriptors; returns the links of the first
        shard and of the projector."""
        for name, path in zip(self.names, process.paths_of(self.descriptors), strict=True):
            (directory / name).symlink_to(path)
        return directory / self.names[0], directory / self.names[-1] if self.has_projector else None


@contextmanager
def open_model(spec: ServeSpec) -> Iterator[OpenModel]:
    """Open the files of a model, as a context manager. Raises NoSuchFile, NoPermission, MissingShard."""
    with ExitStack() as stack:
        descriptors = stack.enter_context(process.open_shards(spec.file))
        names = [path.name for path in process.shards(spec.file)]
        if spec.projector is not None:
            descriptors += stack.enter_context(process.open_shards(spec.projector))
            names.append(_PROJECTOR_LINK)
        yield OpenModel(tuple(names), descriptors, spec.has_vision)
