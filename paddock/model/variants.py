"""The names of a revision's variants.

A variant is named by the quantization that its path states. Where several files state the same one, the shallowest and
then the shortest path of the main model keeps it; every other is named by its path, without `.gguf` and the suffix of a
shard. The *main model* of a repository is the one with the most parameters. At one quantization that is the largest
file: two files with the same label whose sizes differ by more than a quarter are different models.

Names are safe as a file name and in an address (`parse_variant`), and unique in a revision, ignoring case. They are a
pure function of the paths and sizes that the Hub lists, so that every machine gives the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import PurePosixPath

from paddock.model.quantization import GgufSet, is_gguf, stem_of
from paddock.model.reference import RESERVED_VARIANTS, VARIANT_MAX_BYTES, Variant, same_variant

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LEAST_OF_MAIN = 0.75


def name_variants(sets: Iterable[GgufSet], published: Mapping[str, Variant] | None = None) -> dict[GgufSet, Variant]:
    """Name every model among `sets`; projectors have no variant of their own. `published` are names that stand already,
    by a model's first path."""
    models = sorted((one for one in sets if not one.is_projector), key=_nearest_first)
    names: dict[GgufSet, Variant] = {}
    taken: set[str] = set()
    for one in models:
        if published and one.first in published:
            names[one] = published[one.first]
            taken.add(names[one].casefold())
    for one in _keepers([one for one in models if one not in names]):
        names[one] = _unique(one.quantization or "", one.first, taken)
    for one in models:
        if one not in names:
            names[one] = _unique(stem_of(one.first), one.first, taken)
    return names


def variant_with_projector(variant: Variant, projector: GgufSet, *, is_default: bool) -> Variant:
    """The variant of a model with its projector: `Q8_0-mmproj`, or with that projector's own path where another one
    than the usual was asked for."""
    name = "mmproj" if is_default else stem_of(projector.first)
    path = f"{variant} {projector.first}"
    named = _safe(f"{variant}-{name}", path)
    if not is_default and same_variant(named, f"{variant}-mmproj"):
        return _with_digest(named, path)
    return named


def variant_from_path(one: GgufSet) -> Variant:
    """The variant of a file that is no model among others, by its path."""
    return _safe(stem_of(one.first), one.first)


def match_models(names: Mapping[GgufSet, Variant], text: str) -> list[GgufSet]:
    """The models that a text names, best match first: a variant, else a file, else a quantization."""
    by_variant = [one for one, name in names.items() if same_variant(name, text)]
    if by_variant:
        return by_variant
    by_file = [one for one in names if any(text in {path, PurePosixPath(path).name} for path in one.paths)]
    return by_file or [one for one in names if one.quantization and same_variant(one.quantization, text)]


def _keepers(models: Sequence[GgufSet]) -> list[GgufSet]:
    """The one model that keeps each label: the nearest of those that are as large as the main model, and a whole one
    before one that lacks a shard."""
    by_label: dict[str, list[GgufSet]] = {}
    for one in models:
        if one.quantization:
            by_label.setdefault(one.quantization, []).append(one)
    keepers = []
    for group in by_label.values():
        whole = [one for one in group if not one.missing] or group
        largest = max(one.size for one in whole)
        keepers.append(next(one for one in whole if one.size >= _LEAST_OF_MAIN * largest))
    return keepers


def _nearest_first(one: GgufSet) -> tuple[int, int, str]:
    return (one.first.count("/"), len(one.first), one.first)


def _unique(name: str, path: str, taken: set[str]) -> Variant:
    variant, salted = _safe(name, path), path
    while variant.casefold() in taken:  # also a name with digits may be the plain name of a hostile path
        variant, salted = _with_digest(variant, salted), f"{salted}\0"
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
