"""Names of snapshots: the identity (model, revision, variant), and MODEL as a person writes it.

A *variant* is one GGUF model of a revision, named by its quantization or its path (`paddock.model.variants` gives the
names). A *reference* is `org/name[:VARIANT][@REVISION]`, the last two in either order, as llama.cpp and Ollama write
it. It says what is wanted; which snapshot that is depends on what a store holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import NewType

from paddock.errors import UnsafeName
from paddock.model.names import ModelName, Revision, parse_ref

Variant = NewType("Variant", str)
"""The name of a variant, as `parse_variant` accepts it."""

VARIANT_MAX_BYTES = 56
"""`org--name--variant` has to fit into the 255 bytes of a file name."""
RESERVED_VARIANTS = frozenset({"auto", "latest", "default", "best"})

_DRIVE = re.compile(r"[A-Za-z]:")
_VARIANT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")


def parse_variant(text: str) -> Variant:
    """Read the name of a variant.

    Letters, digits, `_`, `.` and `-`, at most 56 bytes, no `--` or `..`, no reserved word. Raises UnsafeName.
    """
    if not _VARIANT.fullmatch(text) or len(text) > VARIANT_MAX_BYTES or "--" in text or ".." in text:
        raise UnsafeName(
            f"the variant {text[:80]!r} is not safe: it has at most {VARIANT_MAX_BYTES} letters, digits, '_', '.' and"
            " '-', and holds no '..' or '--'",
            cure="use a name that `paddock plan` or `paddock ls` prints, such as Q4_K_M",
        )
    if text.casefold() in RESERVED_VARIANTS:
        raise UnsafeName(f"{text!r} is a reserved word, and no variant", cure="leave it out, or name a variant")
    return Variant(text)


def same_variant(one: str, other: str) -> bool:
    """Whether two texts name the same variant: upper and lower case do not matter."""
    return one.casefold() == other.casefold()


@dataclass(frozen=True, slots=True, order=True)
class SnapshotId:
    """The identity of a snapshot. `str()` is a MODEL that the command line accepts."""

    model: ModelName
    revision: Revision
    variant: Variant

    @property
    def short(self) -> str:
        """For people: with the first eight digits of the commit."""
        return f"{self.model}:{self.variant}@{self.revision[:8]}"

    @property
    def name(self) -> str:
        """`org/name:variant`, without the revision."""
        return f"{self.model}:{self.variant}"

    @property
    def reference(self) -> Reference:
        """The reference that names exactly this snapshot."""
        return Reference(self.model, self.variant, self.revision)

    def __str__(self) -> str:
        return f"{self.model}:{self.variant}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Reference:
    """MODEL as it was written: `variant` and `ref` (a branch, tag, commit or the beginning of one) where they were."""

    model: ModelName
    variant: Variant | None = None
    ref: str | None = None

    @property
    def name(self) -> str:
        """`org/name[:VARIANT]`, without the revision."""
        return f"{self.model}:{self.variant}" if self.variant else str(self.model)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `org/name[:VARIANT][@REVISION]`. Raises UnsafeName, which is a ValueError and quotes the name."""
        name, marks = _split(text)
        if len(marks) != len({mark for mark, _ in marks}):
            raise UnsafeName(
                f"the model name {_cut(text)!r} has more than one variant or revision",
                cure="write org/name[:VARIANT][@REVISION]",
            )
        given = dict(marks)
        model = ModelName.parse(name)
        try:
            variant = parse_variant(given[":"]) if ":" in given else None
            ref = parse_ref(given["@"]) if "@" in given else None
        except UnsafeName as error:
            raise UnsafeName(f"the model name {_cut(text)!r} is not safe: {error.message}", cure=error.cure) from None
        if _DRIVE.match(text):
            raise UnsafeName(f"the model name {_cut(text)!r} begins with a drive letter", cure="write org/name:VARIANT")
        if variant is not None and variant.lower().endswith(".gguf"):
            raise UnsafeName(
                f"the model name {_cut(text)!r} holds a file, and no variant", cure="name the variant, or use --file"
            )
        return cls(model, variant, ref)

    def __str__(self) -> str:
        variant = f":{self.variant}" if self.variant else ""
        return f"{self.model}{variant}{f'@{self.ref}' if self.ref else ''}"


def artifact_key(kind: str, model: ModelName, subject: str) -> str:
    """`<kind>-<slug>-<8 hex>`: stable, of `[a-z0-9-]` alone. The digits are those of the sha256 of `subject`:
    `org/name:variant`, or `org/name` before a variant is chosen."""
    flat = re.sub(r"[^a-z0-9]+", "-", model.slug.lower()).strip("-")
    return f"{kind}-{flat}-{sha256(subject.encode()).hexdigest()[:8]}"


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The name, and what follows each `:` and `@`."""
    parts = re.split(r"([:@])", text)
    return parts[0], list(zip(parts[1::2], parts[2::2], strict=True))
