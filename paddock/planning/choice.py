"""Which files of a repository are fetched, and why these.

A *candidate* is one GGUF model of the repository: a file, or all shards of a split one. Candidates are ranked by the
order of preference (`paddock.model.quantization`); which of them fits is the preflight's to say. With it come the small
files that describe the model (`tokenizer*`, `*.json`), and a projector when one is asked for. Nothing else is fetched.

The choice is a pure function of the Hub's listing: it can be printed before anything happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import PurePosixPath

from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE
from paddock.errors import FileNotInRevision, MissingShard, NoGguf
from paddock.model.artifact import Listing, RepositoryFile
from paddock.model.names import check_distinct, parse_repository_path, shown
from paddock.model.quantization import GgufSet, group, ranked_by_place
from paddock.store.store import MANIFEST_NAME

AUTO = "auto"
MAX_COMPANION_BYTES = 128 * 1024 * 1024

_WEIGHTS = {
    ".safetensors": "SafeTensors",
    ".bin": "PyTorch",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".onnx": "ONNX",
    ".h5": "Keras",
    ".msgpack": "Flax",
    ".mlmodel": "Core ML",
    ".ggml": "GGML, the format before GGUF",
}
_INDEXES = ("*.safetensors.index.json", "*.bin.index.json")
_QUANTIZED_BY = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
"""The files in which AutoGPTQ and AutoAWQ describe what they did."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One GGUF model that could be chosen. `size_bytes` is its files' sum, `reason` says why it was chosen or not."""

    quantization: str | None
    file: str
    size_bytes: int
    shards: int
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What is fetched: `files` in the order in which they are fetched, small ones first, and the candidates, best
    first.

    `sets` are the GGUFs among them, and `model_files` the shards of the one that `get_gguf_file_path` will answer with.
    """

    files: tuple[RepositoryFile, ...]
    sets: tuple[GgufSet, ...]
    model_files: tuple[str, ...]
    quantization: str | None
    candidates: tuple[Candidate, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


def choose(
    listing: Listing,
    *,
    quantization: str = AUTO,
    files: Sequence[str] = (),
    projector: bool = False,
    prefer: str | None = None,
) -> Choice:
    """Choose the files of `listing` to fetch.

    `quantization` is a name as in file names (`Q4_K_M`), or `auto`: the first in the order of preference, or the model
    that begins with the file `prefer`, which a preflight found to fit. `files` names GGUF files outright instead.
    Raises NoGguf that says what the repository has instead, FileNotInRevision for a quantization or file that it has
    not, MissingShard, and UnsafeName for a chosen file's hostile name.
    """
    by_path = {file.path: file for file in listing.files}
    sets = group((file.path, file.size) for file in listing.files)
    models = ranked_by_place((file.path, file.size) for file in listing.files)
    what = f"{listing.model}@{listing.revision[:8]}"
    if files:
        chosen = _named(sets, files, what)
    elif not models:
        raise NoGguf(f"no GGUF in {what}: it has {_contents(listing)}", cure=_no_gguf_cure(listing))
    else:
        chosen = [_best(models, quantization, prefer, what)]
    for one in chosen:
        if one.missing:
            raise MissingShard(
                f"{what} lacks {_listed(one.missing[:3])} ({len(one.missing)} of {one.declared} shards missing)",
                cure="ask the repository's owner, or choose another quantization",
            )
    if projector and not any(one.is_projector for one in chosen):
        chosen = [*chosen, _projector(sets, what)]
    model = next((one for one in models if one in chosen), chosen[0])
    wanted = [path for one in chosen for path in one.paths]
    names = [*sorted(_companions(listing)), *wanted]
    for name in names:
        parse_repository_path(name)
    check_distinct([*(name for name in names if name != TEMPLATE_FILE), MANIFEST_NAME, TEMPLATE_FILE, CHAT_FILE])
    return Choice(
        files=tuple(by_path[name] for name in names),
        sets=tuple(chosen),
        model_files=model.paths,
        quantization=model.quantization,
        candidates=tuple(
            _explain(one, chosen, is_asked_for=bool(files) or quantization != AUTO, fits=prefer is not None)
            for one in models
        ),
    )


def _best(models: list[GgufSet], quantization: str, prefer: str | None, what: str) -> GgufSet:
    preferred = next((one for one in models if one.first == prefer), None)
    if preferred:
        return preferred
    if quantization != AUTO:
        asked = [one for one in models if (one.quantization or "").lower() == quantization.lower()]
        if not asked:
            has = sorted({one.quantization or PurePosixPath(one.first).name for one in models})
            raise FileNotInRevision(f"{what} has no {shown(quantization)}", cure=f"use one of {_listed(has)}")
        return next((one for one in asked if not one.missing), asked[0])
    return next((one for one in models if not one.missing), models[0])


def _named(sets: list[GgufSet], files: Sequence[str], what: str) -> list[GgufSet]:
    chosen = []
    for name in files:
        found = next((one for one in sets if name in one.paths), None)
        if found is None:
            has = _listed([one.first for one in sets[:8]]) or "no GGUF at all"
            raise FileNotInRevision(f"{what} has no GGUF file {name[:200]!r}", cure=f"it has {has}")
        if found not in chosen:
            chosen.append(found)
    return chosen


def _projector(sets: list[GgufSet], what: str) -> GgufSet:
    projectors = [one for one in sets if one.is_projector]
    if not projectors:
        raise FileNotInRevision(f"{what} has no projector (mmproj*.gguf)", cure="pull it without a projector")
    return next((one for one in projectors if one.quantization in {"F16", "BF16"}), projectors[0])


def _companions(listing: Listing) -> list[str]:
    """The small files at the top of the repository that describe the model. An index of weights that are not fetched is
    left out, and so are files with the names of what a snapshot says of itself."""
    return [
        file.path
        for file in listing.files
        if "/" not in file.path
        and file.size <= MAX_COMPANION_BYTES
        and (file.path.startswith("tokenizer") or file.path.endswith(".json") or file.path == TEMPLATE_FILE)
        and not file.path.lower().endswith(".gguf")
        and file.path.casefold() not in {MANIFEST_NAME, CHAT_FILE}
        and not any(fnmatchcase(file.path, index) for index in _INDEXES)
    ]


def _explain(one: GgufSet, chosen: list[GgufSet], *, is_asked_for: bool, fits: bool) -> Candidate:
    if one in chosen:
        among = "that fits, in the order of preference" if fits else "in the order of preference"
        reason = "chosen: asked for by name" if is_asked_for else f"chosen: the first {among}"
    elif one.missing:
        reason = f"{len(one.missing)} of {one.declared} shards are missing"
    elif is_asked_for:
        reason = "another one was asked for by name"
    else:
        reason = "another one was chosen"
    return Candidate(one.quantization, one.first, one.size, one.declared, one in chosen, reason)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names)


def _contents(listing: Listing) -> str:
    """What a repository without GGUF has, in words: the formats of its weights, or its files."""
    suffixes = {PurePosixPath(file.path).suffix.lower() for file in listing.files}
    formats = sorted({name for suffix, name in _WEIGHTS.items() if suffix in suffixes})
    names = [file.path for file in listing.files if not file.path.startswith(".")]
    if formats:
        weights = " and ".join(formats) + " weights"
        by_file = (kind for name, kind in _QUANTIZED_BY.items() if name in names)
        by_name = (kind for kind in ("GPTQ", "AWQ") if kind.lower() in str(listing.model).lower())
        kind = next(chain(by_file, by_name), None)
        return f"{weights} ({kind})" if kind else weights
    return f"only {_listed(names[:6])}" if names else "no files"


def _no_gguf_cure(listing: Listing) -> str:
    return f"use a repository of GGUF files, often named {listing.model}-GGUF; Paddock does not convert weights yet"
