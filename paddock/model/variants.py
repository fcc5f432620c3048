"""Name the variants of a revision.

A variant of the main family (`paddock.gguf.survey`) is named by the quantization in its path. If several have the same
quantization in their paths, the one with the shallowest, then the shortest path gets the name; all others, and other
models, are named by their path, without `.gguf` and the suffix of a shard. A file with less than three quarters of the
size of another one with its quantization is taken for another model.

Names are safe in file names and URLs (see `parse_variant`), and unique in a revision, ignoring case. They are a pure
function of the files, so all machines use the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import PurePosixPath

from paddock.model.quantization import GgufSet, is_gguf, stem_of
from paddock.model.reference import RESERVED_VARIANTS, VARIANT_MAX_BYTES, Variant, same_variant

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MIN_SIZE_OF_MAIN_MODEL = 0.75  # as a share of the largest model of the same quantization


def name_variants(
    models: Iterable[GgufSet], others: Iterable[GgufSet] = (), *, published: Mapping[str, Variant] | None = None
) -> dict[GgufSet, Variant]:
    """Name every model: `models` are those of the main family, and `others` further models that can be named.

    `published` are variants that were published before, by the first path of the model. They keep their names.
    """
    models, others = sorted(models, key=_by_depth), sorted(others, key=_by_depth)
    names: dict[GgufSet, Variant] = {}
    taken: set[str] = set()
    for model in (*models, *others):
        if published and model.first in published:
            names[model] = published[model.first]
            taken.add(names[model].casefold())
    for model in _models_named_by_quantization([model for model in models if model not in names]):
        names[model] = _unique(model.quantization or "", model.first, taken)
    for model in (*models, *others):
        if model not in names:
            names[model] = _unique(stem_of(model.first), model.first, taken)
    return names


def variant_with_projector(variant: Variant, projector: GgufSet, *, is_default: bool) -> Variant:
    """The variant of a model with its projector: `Q8_0-mmproj` with the default projector of the revision, or else with
    the projector's path instead of `mmproj`."""
    name = "mmproj" if is_default else stem_of(projector.first)
    path = f"{variant} {projector.first}"
    full_name = _safe(f"{variant}-{name}", path)
    if not is_default and same_variant(full_name, f"{variant}-mmproj"):
        return _with_digest(full_name, path)
    return full_name


def variant_from_path(model: GgufSet) -> Variant:
    """The variant of a model by its path, for models that `name_variants` does not name."""
    return _safe(stem_of(model.first), model.first)


def match_models(names: Mapping[GgufSet, Variant], text: str) -> list[GgufSet]:
    """The models that `text` names, best match first: the variant, else the file, else all of the quantization, else
    the one whose name ends with `text` as a part of its own (`I-Compact` for `Step-I-Compact`)."""
    text = {"FP16": "F16", "FP32": "F32"}.get(text.upper(), text)
    by_variant = [model for model, name in names.items() if same_variant(name, text)]
    if by_variant:
        return by_variant
    by_file = [model for model in names if any(text in {path, PurePosixPath(path).name} for path in model.paths)]
    if by_file:
        return by_file
    by_quantization = [model for model in names if model.quantization and same_variant(model.quantization, text)]
    return by_quantization or _match_label(names, text)


def _match_label(names: Mapping[GgufSet, Variant], text: str) -> list[GgufSet]:
    """The model whose name ends with `text`. Of several the one whose rest is a beginning that they share: of `A-Fast`
    and `A-Very-Fast`, `Fast` names the first."""
    ends = re.compile(rf"(.*)[-._]{re.escape(text)}", re.IGNORECASE)
    found = sorted(
        (len(match[1]), model.first, model) for model, name in names.items() if (match := ends.fullmatch(name))
    )
    if len(found) > 1 and found[0][0] == found[1][0]:
        return []
    return [model for _, _, model in found[:1]]


def _models_named_by_quantization(models: Sequence[GgufSet]) -> list[GgufSet]:
    """For each quantization, the model that is named by it. `models` are sorted by depth and length of their paths.

    It is the first model that has the size of the main model; complete models take precedence over incomplete ones.
    """
    by_quantization: dict[str, list[GgufSet]] = {}
    for model in models:
        if model.quantization:
            by_quantization.setdefault(model.quantization, []).append(model)
    named = []
    for group in by_quantization.values():
        complete = [model for model in group if not model.missing] or group
        largest = max(model.size for model in complete)
        named.append(next(model for model in complete if model.size >= _MIN_SIZE_OF_MAIN_MODEL * largest))
    return named


def _by_depth(model: GgufSet) -> tuple[int, int, str]:
    return (model.first.count("/"), len(model.first), model.first)


def _unique(name: str, path: str, taken: set[str]) -> Variant:
    variant, digest_input = _safe(name, path), path
    while variant.casefold() in taken:  # a name with a digest may be taken too, by a hostile path
        variant, digest_input = _with_digest(variant, digest_input), f"{digest_input}\0"
    taken.add(variant.casefold())
    return variant


def _safe(name: str, path: str) -> Variant:
    text = _UNSAFE.sub("-", name)
    text = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", text)).strip("-.")
    if not text or text.casefold() in RESERVED_VARIANTS or len(text) > VARIANT_MAX_BYTES or is_gguf(text):
        return _with_digest(text or "model", path)
    return Variant(text)


def _with_digest(text: str, path: str) -> Variant:
    digest = sha256(path.encode(errors="surrogatepass")).hexdigest()[:8]
    kept = text[: VARIANT_MAX_BYTES - len(digest) - 1].rstrip("-.")
    return Variant(f"{kept}-{digest}")
