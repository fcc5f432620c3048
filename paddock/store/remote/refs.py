"""Refs: the promoted state of a model in a remote store, `refs/org--name.json`.

    {"default": "Q8_0", "variants": {"Q8_0": {"revision": "<40 hex>", "previous": "<40 hex>" or null}}}

A ref is written on the condition that nobody wrote it since it was read. A worker changes only what it promoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paddock.errors import UnsafeName
from paddock.model.names import ModelName, Revision, parse_revision
from paddock.model.reference import SnapshotId, Variant, parse_variant
from paddock.store.history import Promoted

_MAX_VARIANTS = 10_000


@dataclass(frozen=True, slots=True)
class Pointer:
    """The promoted revision of a variant, and the one before it."""

    revision: Revision
    previous: Revision | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """The default variant of a model, and the promoted revision of each variant."""

    default: Variant | None = None
    variants: Mapping[Variant, Pointer] = field(default_factory=dict)

    def promoted(self, model: ModelName) -> Promoted:
        revisions = {variant: pointer.revision for variant, pointer in self.variants.items()}
        return Promoted(model, self.default if self.default in revisions else None, revisions)

    def with_promoted(self, ids: Sequence[SnapshotId], *, default: Variant | None) -> Ref:
        """This ref with `ids` promoted, and with `default` as the default variant unless it is None."""
        variants = dict(self.variants)
        for id in ids:
            current = variants.get(id.variant)
            if current is None or current.revision != id.revision:
                variants[id.variant] = Pointer(id.revision, current.revision if current else None)
        return Ref(default or self.default, variants)

    def to_json(self) -> dict[str, object]:
        return {
            "default": self.default,
            "variants": {
                variant: {"revision": pointer.revision, "previous": pointer.previous}
                for variant, pointer in sorted(self.variants.items())
            },
        }

    @classmethod
    def from_json(cls, value: object) -> Ref:
        """Raises ValueError for anything but what `to_json` made."""
        if not isinstance(value, dict) or not isinstance(value.get("variants"), dict):
            raise ValueError("not a ref")  # noqa: TRY004 - callers catch one type for all malformed refs
        if len(value["variants"]) > _MAX_VARIANTS:
            raise ValueError(f"it has more than {_MAX_VARIANTS} variants")
        try:
            variants = {
                parse_variant(str(variant)): Pointer(
                    parse_revision(str(pointer["revision"])),
                    None if pointer["previous"] is None else parse_revision(str(pointer["previous"])),
                )
                for variant, pointer in value["variants"].items()
            }
            default = value["default"]
            return cls(None if default is None else parse_variant(str(default)), variants)
        except (KeyError, TypeError, UnsafeName) as error:
            raise ValueError(f"not a ref: {error}") from None
