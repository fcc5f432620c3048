"""Which files of a repository are fetched, and why these.

A *candidate* is one GGUF model of the repository, a variant: a file, or all shards of a split one. Candidates are
ranked by the order of preference (`paddock.model.quantization`); which of them fits is the preflight's to say. With it
come the small files that describe the model (`tokenizer*`, `*.json`), and a projector when one is asked for. Nothing
else is fetched.

The choice is a pure function of the Hub's listing: it can be printed before anything happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import PurePosixPath

from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE
from paddock.errors import BadSetting, FileNotInRevision, MissingShard, NoGguf
from paddock.model.artifact import Listing, RepositoryFile
from paddock.model.names import check_distinct, parse_repository_path, printable
from paddock.model.quantization import GgufSet, group_shards, rank_models_top_first
from paddock.model.reference import Variant, same_variant
from paddock.model.variants import match_models, name_variants, variant_from_path, variant_with_projector
from paddock.store.manifests import MANIFEST_NAME

AUTO = "auto"
"""The variant that is the default already, while there is one and it fits; else as BEST."""
BEST = "best"
"""The first that fits, in the order of preference."""
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
class RankedFile:
    """One GGUF model that could be chosen. `size_bytes` is its files' sum, `reason` says why it was chosen or not."""

    variant: Variant
    quantization: str | None
    file: str
    size_bytes: int
    shards: int
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class FileSelection:
    """What is fetched: `files` in the order in which they are fetched, small ones first, and the candidates, best
    first.

    `sets` are the GGUFs among them, and `model_files` the shards of the one that `get_gguf_file_path` will answer with.
    `variant` is the name of that model in the revision, with its projector where there is one.
    """

    files: tuple[RepositoryFile, ...]
    sets: tuple[GgufSet, ...]
    model_files: tuple[str, ...]
    variant: Variant
    quantization: str | None
    candidates: tuple[RankedFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


def select_files(
    listing: Listing,
    *,
    quantization: str = AUTO,
    files: Sequence[str] = (),
    projector: bool = False,
    prefer: str | None = None,
) -> FileSelection:
    """Choose the files of `listing` to fetch.

    `quantization` names a variant, a file or a quantization (`Q4_K_M`); with `auto` or `best` it is the first in the
    order of preference, or the model that begins with the file `prefer`, which a preflight found to fit. `files` names
    GGUF files outright instead: of one model, and of its projector. Raises NoGguf that says what the repository has
    instead, FileNotInRevision for what it has not, BadSetting for the files of two models, MissingShard, and UnsafeName
    for a chosen file's hostile name.
    """
    by_path = {file.path: file for file in listing.files}
    sets = group_shards((file.path, file.size) for file in listing.files)
    models = rank_models_top_first((file.path, file.size) for file in listing.files)
    names = name_variants(sets, listing.variants)
    what = f"{listing.model}@{listing.revision[:8]}"
    if files:
        chosen = _named(sets, files, what)
    elif not models:
        raise NoGguf(f"no GGUF in {what}: it has {_contents(listing)}", cure=_no_gguf_cure(listing))
    else:
        chosen = _best(models, sets, names, quantization, prefer=prefer, what=what)
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
    paths = [*sorted(_companions(listing)), *wanted]
    for path in paths:
        parse_repository_path(path)
    check_distinct([*(path for path in paths if path != TEMPLATE_FILE), MANIFEST_NAME, TEMPLATE_FILE, CHAT_FILE])
    is_asked_for = bool(files) or quantization not in {AUTO, BEST}
    return FileSelection(
        files=tuple(by_path[path] for path in paths),
        sets=tuple(chosen),
        model_files=model.paths,
        variant=_variant(model, chosen, sets, names),
        quantization=model.quantization,
        candidates=tuple(
            _explain(one, names[one], chosen, is_asked_for=is_asked_for, fits=prefer is not None) for one in models
        ),
    )


def find_variant(
    sets: Sequence[GgufSet], names: Mapping[GgufSet, Variant], text: str
) -> tuple[list[GgufSet], GgufSet | None]:
    """The models of `names` that `text` names (a variant, a file or a quantization), the best match first, and the
    projector where it names a variant with one."""
    found = match_models(names, text)
    if found:
        return found, None
    usual = _usual_projector(sets)
    for one, name in names.items():
        for other in sets:
            if other.is_projector and same_variant(variant_with_projector(name, other, is_usual=other == usual), text):
                return [one], other
    return [], None


def _best(
    models: Sequence[GgufSet],
    sets: Sequence[GgufSet],
    names: Mapping[GgufSet, Variant],
    quantization: str,
    *,
    prefer: str | None,
    what: str,
) -> list[GgufSet]:
    if quantization in {AUTO, BEST}:
        preferred = next((one for one in models if one.first == prefer), None)
        return [preferred or next((one for one in models if not one.missing), models[0])]
    asked, projector = find_variant(sets, names, quantization)
    if not asked:
        has = _listed(sorted(names.values()))
        raise FileNotInRevision(f"{what} has no {printable(quantization)}", cure=f"use one of {has}")
    best = next((one for one in asked if one.first == prefer), None)
    best = best or next((one for one in asked if not one.missing), asked[0])
    return [best, projector] if projector else [best]


def _variant(
    model: GgufSet, chosen: Sequence[GgufSet], sets: Sequence[GgufSet], names: Mapping[GgufSet, Variant]
) -> Variant:
    if model not in names:
        return variant_from_path(model)
    projector = next((one for one in chosen if one.is_projector), None)
    if projector is None:
        return names[model]
    return variant_with_projector(names[model], projector, is_usual=projector == _usual_projector(sets))


def _named(sets: list[GgufSet], files: Sequence[str], what: str) -> list[GgufSet]:
    chosen = []
    for name in files:
        found = next((one for one in sets if name in one.paths), None)
        if found is None:
            has = _listed([one.first for one in sets[:8]]) or "no GGUF at all"
            raise FileNotInRevision(f"{what} has no GGUF file {name[:200]!r}", cure=f"it has {has}")
        if found not in chosen:
            chosen.append(found)
    for kind, is_projector in (("models", False), ("projectors", True)):
        several = [one.first for one in chosen if one.is_projector == is_projector]
        if len(several) > 1:
            raise BadSetting(
                f"{_listed(several)} are {len(several)} {kind}, and a snapshot has one", cure="pull each by itself"
            )
    return chosen


def _projector(sets: list[GgufSet], what: str) -> GgufSet:
    projector = _usual_projector(sets)
    if projector is None:
        raise FileNotInRevision(f"{what} has no projector (mmproj*.gguf)", cure="pull it without a projector")
    return projector


def _usual_projector(sets: Sequence[GgufSet]) -> GgufSet | None:
    projectors = [one for one in sets if one.is_projector]
    return next((one for one in projectors if one.quantization in {"F16", "BF16"}), next(iter(projectors), None))


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


def _explain(
    one: GgufSet, variant: Variant, chosen: Sequence[GgufSet], *, is_asked_for: bool, fits: bool
) -> RankedFile:
    if one in chosen:
        among = "that fits, in the order of preference" if fits else "in the order of preference"
        reason = "chosen: asked for by name" if is_asked_for else f"chosen: the first {among}"
    elif one.missing:
        reason = f"{len(one.missing)} of {one.declared} shards are missing"
    elif is_asked_for:
        reason = "another one was asked for by name"
    else:
        reason = "another one was chosen"
    return RankedFile(variant, one.quantization, one.first, one.size, one.declared, one in chosen, reason)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names)


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
