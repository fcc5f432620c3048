"""Select the files of a repository to download: one variant, and the small files that describe the model.

A *candidate* is one GGUF model of the repository, a variant: a file, or all shards of a split one. Candidates are
ranked by the order of preference (`paddock.model.quantization`). The small files are chosen by
`paddock.planning.companions`; a projector is added on request. Nothing else is downloaded.

The selection is a pure function of the Hub's listing and of a survey of its files (`paddock.gguf.survey`), so it can be
printed before anything is downloaded. It does not know the target's memory: the preflight finds the candidate that
fits, and passes it as `prefer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath

from paddock.errors import BadSetting, FileNotInRevision, MissingShard, NoGguf
from paddock.gguf.survey import Survey, survey_names
from paddock.model.artifact import Listing, RepositoryFile
from paddock.model.names import printable
from paddock.model.quantization import GgufSet, group_shards, is_gguf, is_raw_part
from paddock.model.reference import Variant, same_variant
from paddock.model.variants import match_models, name_variants, variant_from_path, variant_with_projector
from paddock.planning.companions import LeftOut, require_safe_paths, select_companions
from paddock.planning.file_patterns import find_file

AUTO = "auto"
"""Keep the current default variant if it exists and fits, otherwise the same as BEST."""
BEST = "best"
"""The first variant in the order of preference that fits."""
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
_QUANTIZER_CONFIGS = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
"""Files in which AutoGPTQ and AutoAWQ describe their quantization."""


@dataclass(frozen=True, slots=True)
class RankedFile:
    """A candidate. `file` is its first file, `size_bytes` the sum over all its files, and `reason` says why it was or
    was not chosen."""

    variant: Variant
    quantization: str | None
    file: str
    size_bytes: int
    shards: int
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class FileSelection:
    """The files to download, and the candidates that they were selected from.

    `files` are the companions, then the models. `sets` are the GGUF models among them, including a
    projector, and `model_files` the shards of the language model, which `get_gguf_file_path` returns later. `variant`
    is the name of that model in the revision, with the projector if there is one. `projector` is None for a projector
    that was chosen alone. `candidates` are sorted best first. `left_out` are small files that
    are not downloaded because of their names or sizes.
    """

    files: tuple[RepositoryFile, ...]
    sets: tuple[GgufSet, ...]
    model_files: tuple[str, ...]
    projector: GgufSet | None
    variant: Variant
    quantization: str | None
    candidates: tuple[RankedFile, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


def select_files(
    listing: Listing,
    *,
    survey: Survey | None = None,
    quantization: str = AUTO,
    files: Sequence[str] = (),
    projector: bool = False,
    prefer: str | None = None,
) -> FileSelection:
    """Select the files of `listing` to download.

    Args:
        listing: The files of one revision.
        survey: What its GGUF files are; by default, their names decide.
        quantization: The name of a variant, a file or a quantization (`Q4_K_M`). `auto` and `best` select `prefer`, or
            else the first candidate in the order of preference.
        files: Paths, names or patterns (`find_file`) of GGUF files to select instead, of one model and its projector.
            One shard stands for all.
        projector: Whether to add the multimodal projector.
        prefer: The first file of the candidate that the preflight found to fit.

    Raises:
        NoGguf: The repository has no GGUF model; the message lists what it has.
        FileNotInRevision: A requested quantization, file or projector is not in the revision.
        BadSetting: `files`, or one pattern among them, belong to more than one model.
        MissingShard: A shard of the selected model is missing.
        ModelRejected: A file of the selected model has an unsafe name.
    """
    by_path = {file.path: file for file in listing.files}
    sets = group_shards((file.path, file.size) for file in listing.files)
    surveyed = survey or survey_names(sets)
    models = surveyed.models
    names = name_variants(models, surveyed.siblings, published=listing.variants)
    repository = f"{listing.model}@{listing.revision[:8]}"
    if files:
        chosen = _select_named(sets, surveyed, files, repository)
    elif not models:
        raise NoGguf(f"no GGUF in {repository}: it has {_contents(listing)}", cure=_no_gguf_cure(listing))
    else:
        chosen = _select_best(surveyed, names, quantization, prefer=prefer, repository=repository)
    for selected in chosen:
        if selected.missing:
            raise MissingShard(
                f"{repository} lacks {_listed(selected.missing[:3])}"
                f" ({len(selected.missing)} of {selected.declared} shards missing)",
                cure="ask the repository's owner, or choose another quantization",
            )
    model = next((gguf for gguf in chosen if gguf not in surveyed.projectors), chosen[0])
    if projector and not any(gguf in surveyed.projectors for gguf in chosen):
        chosen = [*chosen, _require_projector(surveyed, model, repository)]
    model_paths = [path for selected in chosen for path in selected.paths]
    require_safe_paths(model_paths)
    companions = select_companions(listing.files, model_paths)
    by_name = bool(files) or quantization not in {AUTO, BEST}
    return FileSelection(
        files=tuple(by_path[path] for path in (*companions.paths, *model_paths)),
        sets=tuple(chosen),
        model_files=model.paths,
        projector=next((gguf for gguf in chosen if gguf in surveyed.projectors and gguf != model), None),
        variant=_variant(model, chosen, surveyed, names),
        quantization=model.quantization,
        candidates=tuple(
            _explain(gguf, names[gguf], chosen, by_name=by_name, fits=prefer is not None) for gguf in models
        ),
        left_out=companions.left_out,
    )


def require_gguf(listing: Listing) -> None:
    """Raise NoGguf, with what the repository has, where it has no GGUF and no part of one."""
    if not any(is_gguf(file.path) or is_raw_part(file.path) for file in listing.files):
        repository = f"{listing.model}@{listing.revision[:8]}"
        raise NoGguf(f"no GGUF in {repository}: it has {_contents(listing)}", cure=_no_gguf_cure(listing))


def find_variant(surveyed: Survey, names: Mapping[GgufSet, Variant], text: str) -> tuple[list[GgufSet], GgufSet | None]:
    """Find the models that `text` names, and the projector if it names a variant with one.

    Args:
        surveyed: The models of the revision, and its projectors.
        names: The variant of each of these models.
        text: The name of a variant, a file or a quantization, in any case.

    Returns:
        The matching models, best match first (none: empty), and the projector or None.
    """
    found = match_models(names, text)
    if found:
        return found, None
    for model, variant in names.items():
        default = default_projector(surveyed, model)
        for projector in surveyed.projectors:
            full_name = variant_with_projector(variant, projector, is_default=projector == default)
            if same_variant(full_name, text):
                return [model], projector
    return [], None


def _select_best(
    surveyed: Survey,
    names: Mapping[GgufSet, Variant],
    quantization: str,
    *,
    prefer: str | None,
    repository: str,
) -> list[GgufSet]:
    models = surveyed.models
    if quantization in {AUTO, BEST}:
        preferred = next((gguf for gguf in surveyed.named if gguf.first == prefer), None)
        return [preferred or next((gguf for gguf in models if not gguf.missing), models[0])]
    matches, projector = find_variant(surveyed, names, quantization)
    matches = matches or [gguf for gguf in models if gguf.first == prefer]
    if not matches:
        available = _listed(sorted(names.values()))
        raise FileNotInRevision(f"{repository} has no {printable(quantization)}", cure=f"use one of {available}")
    best = next((gguf for gguf in matches if gguf.first == prefer), None)
    best = best or next((gguf for gguf in matches if not gguf.missing), matches[0])
    return [best, projector] if projector else [best]


def _variant(model: GgufSet, chosen: Sequence[GgufSet], surveyed: Survey, names: Mapping[GgufSet, Variant]) -> Variant:
    if model not in names:
        return variant_from_path(model)
    projector = next((gguf for gguf in chosen if gguf in surveyed.projectors), None)
    if projector is None:
        return names[model]
    is_default = projector == default_projector(surveyed, model)
    return variant_with_projector(names[model], projector, is_default=is_default)


def _select_named(sets: Sequence[GgufSet], surveyed: Survey, files: Sequence[str], repository: str) -> list[GgufSet]:
    chosen = []
    for name in files:
        found = find_file(sets, name, repository)
        if found not in chosen:
            chosen.append(found)
    for kind, is_projector in (("models", False), ("projectors", True)):
        several = [gguf.first for gguf in chosen if (gguf in surveyed.projectors) == is_projector]
        if len(several) > 1:
            raise BadSetting(
                f"the files {_listed(several)} belong to {len(several)} {kind}, and a snapshot has one at most",
                cure="pull each by itself",
            )
    return chosen


def _require_projector(surveyed: Survey, model: GgufSet, repository: str) -> GgufSet:
    projector = default_projector(surveyed, model)
    if projector is None:
        others = ", ".join(printable(gguf.first) for gguf in surveyed.projectors)
        why = f" for {printable(model.first)}: {others} is for models of another width" if others else ""
        raise FileNotInRevision(f"{repository} has no projector{why}", cure="pull it without a projector")
    return projector


def default_projector(surveyed: Survey, model: GgufSet) -> GgufSet | None:
    """The projector for a model: one whose output has the width of the model, where both are known; then the one in the
    nearest directory, then one in 16 bits. None where there is none."""
    width = surveyed.width(model)
    known = {gguf: surveyed.heads[gguf].projection_dim for gguf in surveyed.projectors if gguf in surveyed.heads}
    suited = [gguf for gguf in surveyed.projectors if width is None or known.get(gguf) in {None, width}]
    return min(suited, default=None, key=lambda gguf: _projector_rank(gguf, model, stated=bool(known.get(gguf))))


def _projector_rank(projector: GgufSet, model: GgufSet, *, stated: bool) -> tuple[bool, int, bool, str]:
    ours, its = PurePosixPath(model.first).parent.parts, PurePosixPath(projector.first).parent.parts
    shared = next((n for n, (one, other) in enumerate(zip(ours, its, strict=False)) if one != other), None)
    shared = min(len(ours), len(its)) if shared is None else shared
    distance = len(ours) + len(its) - 2 * shared
    return (not stated, distance, projector.quantization not in {"F16", "BF16"}, projector.first)


def _explain(gguf: GgufSet, variant: Variant, chosen: Sequence[GgufSet], *, by_name: bool, fits: bool) -> RankedFile:
    if gguf in chosen:
        among = "that fits, in the order of preference" if fits else "in the order of preference"
        reason = "chosen: requested by name" if by_name else f"chosen: the first {among}"
    elif gguf.missing:
        reason = f"{len(gguf.missing)} of {gguf.declared} shards are missing"
    elif by_name:
        reason = "another one was requested by name"
    else:
        reason = "another one was chosen"
    return RankedFile(variant, gguf.quantization, gguf.first, gguf.size, gguf.declared, gguf in chosen, reason)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names)


def _contents(listing: Listing) -> str:
    """Describe a repository without GGUF for a message: the formats of its weights, or else its files."""
    suffixes = {PurePosixPath(file.path).suffix.lower() for file in listing.files}
    formats = sorted({name for suffix, name in _WEIGHTS.items() if suffix in suffixes})
    names = [file.path for file in listing.files if not file.path.startswith(".")]
    if formats:
        weights = " and ".join(formats) + " weights"
        by_file = (kind for name, kind in _QUANTIZER_CONFIGS.items() if name in names)
        by_name = (kind for kind in ("GPTQ", "AWQ") if kind.lower() in str(listing.model).lower())
        kind = next(chain(by_file, by_name), None)
        return f"{weights} ({kind})" if kind else weights
    return f"only {_listed(names[:6])}" if names else "no files"


def _no_gguf_cure(listing: Listing) -> str:
    return f"use a repository of GGUF files, often named {listing.model}-GGUF; Paddock does not convert weights yet"
