"""Select the small files that describe a model: `tokenizer*` and `*.json` at the top of the repository.

The engine never reads these *companions*: only the GGUF decides what happens to a model. A companion whose name could
do harm in a file system is left out of the snapshot, with its reason; its contents are checked after the download, by
`paddock.validation.companions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE
from paddock.errors import ModelRejected, UnsafeName
from paddock.model.artifact import RepositoryFile
from paddock.model.names import check_distinct, fold_path, parse_repository_path, path_problem, printable
from paddock.model.units import human_bytes
from paddock.store.manifests import MANIFEST_NAME

MAX_COMPANION_BYTES = 128 * 1024 * 1024

_INDEXES = ("*.safetensors.index.json", "*.bin.index.json")
_WRITTEN = (MANIFEST_NAME, CHAT_FILE)
"""Files of a snapshot that Paddock writes, and that are never taken from the repository. The chat template is not among
them: the repository's is fetched for the audit, which may choose it."""
_MAX_NOTES = 8


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A companion that is not fetched, and why."""

    path: str
    reason: str

    @property
    def note(self) -> str:
        return f"{self.path[:200]!r} is left out: {self.reason}"


@dataclass(frozen=True, slots=True)
class Companions:
    """The companions to fetch, sorted, and those that are left out because of their names or sizes."""

    paths: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def select_companions(files: Iterable[RepositoryFile], model_paths: Sequence[str]) -> Companions:
    """Select the companions of the model that consists of `model_paths`.

    The indexes of SafeTensors and PyTorch weights are passed over without a word, since those weights are not
    downloaded. Of names that a file system may take for the same one, the name in lower case is kept.
    """
    taken = {fold_path(path): path for path in model_paths}
    directories = {parent: path for folded, path in taken.items() for parent in _parents(folded)}
    selected: list[str] = []
    left_out: list[LeftOut] = []
    companions = (file for file in files if _is_companion(file.path))
    for file in sorted(companions, key=lambda file: (file.path != fold_path(file.path), file.path)):
        folded = fold_path(file.path)
        problem = path_problem(file.path)
        if problem is not None:
            reason = f"its name is not safe: {problem}"
        elif folded in _WRITTEN:
            reason = f"Paddock writes a file of its own as {folded}"
        elif folded in directories:
            reason = f"some file systems take its name for a directory of {printable(directories[folded])}"
        elif folded in taken:
            reason = f"some file systems take its name for {printable(taken[folded])}"
        elif file.size > MAX_COMPANION_BYTES:
            reason = f"it has {human_bytes(file.size)}, and at most {human_bytes(MAX_COMPANION_BYTES)} are fetched"
        else:
            taken[folded] = file.path
            selected.append(file.path)
            continue
        left_out.append(LeftOut(file.path, reason))
    return Companions(tuple(sorted(selected)), tuple(left_out))


def require_safe_paths(model_paths: Sequence[str]) -> None:
    """Raise ModelRejected where a path of the model itself is not safe, or collides with another one or with a file
    that Paddock writes into the snapshot."""
    try:
        for path in model_paths:
            parse_repository_path(path)
        check_distinct([*model_paths, *_WRITTEN, TEMPLATE_FILE])
    except UnsafeName as error:
        raise ModelRejected(
            error.message, cure="choose another file, or ask the repository's owner to rename it"
        ) from None


def left_out_notes(left_out: Sequence[LeftOut]) -> tuple[str, ...]:
    """A sentence for each file that is left out; of many, for the first few, and the number of the others."""
    notes = [one.note for one in left_out[:_MAX_NOTES]]
    more = len(left_out) - len(notes)
    return (*notes, *([f"{more} more files are left out"] if more else []))


def _is_companion(path: str) -> bool:
    return (
        "/" not in path
        and (path.startswith("tokenizer") or path.endswith(".json") or path == TEMPLATE_FILE)
        and not path.lower().endswith(".gguf")
        and not any(fnmatchcase(path, index) for index in _INDEXES)
    )


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
