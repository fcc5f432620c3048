"""Identify snapshots by (model, revision, variant), and parse references to them as users write them.

A *variant* is one GGUF model of a revision, named by its quantization or its path (see `paddock.model.variants`). A
*reference* is `org/name[:VARIANT][@REVISION]`, with the last two in either order, as in llama.cpp and Ollama. Which
snapshot a reference resolves to depends on the contents of a store, and is not decided here. `parse_requested` also
reads `org/name[@REVISION]:path.gguf` and addresses of the Hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NewType

from paddock.errors import UnsafeName
from paddock.model.names import ModelName, Revision, parse_ref

Variant = NewType("Variant", str)
"""The name of a variant, validated by `parse_variant`."""

VARIANT_MAX_BYTES = 56
"""Limit for the name of a variant: `org--name--variant` must fit into the 255 bytes of a file name."""
RESERVED_VARIANTS = frozenset({"auto", "latest", "default", "best"})

_DRIVE = r"[A-Za-z]:"
_FILE = r"(?is)(?P<model>[^:@]+)(?:@(?P<ref>[^:@]+))?:(?P<file>.+\.gguf)(?:@(?P<last_ref>[^:@]+))?"
_VARIANT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")


def parse_variant(text: str) -> Variant:
    """Parse the name of a variant. Raises UnsafeName.

    A valid name consists of letters, digits, `_`, `.` and `-`, has at most 56 bytes, does not contain `--` or `..`, and
    is not a reserved word.
    """
    if not _VARIANT.fullmatch(text) or len(text) > VARIANT_MAX_BYTES or "--" in text or ".." in text:
        raise UnsafeName(
            f"the variant {text[:80]!r} is not safe: it must consist of at most {VARIANT_MAX_BYTES} letters, digits,"
            " '_', '.' and '-', and not contain '..' or '--'",
            cure="use a name that `paddock plan` or `paddock ls` prints, such as Q4_K_M",
        )
    if text.casefold() in RESERVED_VARIANTS:
        raise UnsafeName(f"{text!r} is a reserved word and not a variant", cure="leave it out, or name a variant")
    return Variant(text)


def same_variant(name: str, other: str) -> bool:
    """Whether two texts name the same variant, ignoring case."""
    return name.casefold() == other.casefold()


@dataclass(frozen=True, slots=True, order=True)
class SnapshotId:
    """The identity of a snapshot. `str()` returns a MODEL that the command line accepts."""

    model: ModelName
    revision: Revision
    variant: Variant

    @property
    def short(self) -> str:
        """`org/name:variant@revision` with the first eight digits of the commit, for display."""
        return f"{self.model}:{self.variant}@{self.revision[:8]}"

    @property
    def name(self) -> str:
        """`org/name:variant`, without the revision."""
        return f"{self.model}:{self.variant}"

    @property
    def reference(self) -> Reference:
        """The reference to exactly this snapshot."""
        return Reference(self.model, self.variant, self.revision)

    def __str__(self) -> str:
        return f"{self.model}:{self.variant}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed MODEL. `variant` and `ref` (a branch, a tag, a commit or a prefix of one) are None if not written."""

    model: ModelName
    variant: Variant | None = None
    ref: str | None = None

    @property
    def name(self) -> str:
        """`org/name[:VARIANT]`, without the revision."""
        return f"{self.model}:{self.variant}" if self.variant else str(self.model)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse `org/name[:VARIANT][@REVISION]`. Raises UnsafeName (a ValueError) with the name quoted."""
        if "://" in text:
            wanted = parse_requested(text).reference
            raise UnsafeName(f"the model name {_shortened(text)!r} is an address", cure=f"write {wanted}")
        name, parts = _split(text)
        if len(parts) != len({separator for separator, _ in parts}):
            raise UnsafeName(
                f"the model name {_shortened(text)!r} has more than one variant or revision",
                cure="write org/name[:VARIANT][@REVISION]",
            )
        by_separator = dict(parts)
        model = ModelName.parse(name)
        try:
            variant = parse_variant(by_separator[":"]) if ":" in by_separator else None
            ref = parse_ref(by_separator["@"]) if "@" in by_separator else None
        except UnsafeName as error:
            raise UnsafeName(
                f"the model name {_shortened(text)!r} is not safe: {error.message}", cure=error.cure
            ) from None
        if re.match(_DRIVE, text):
            raise UnsafeName(
                f"the model name {_shortened(text)!r} begins with a drive letter", cure="write org/name:VARIANT"
            )
        if variant is not None and variant.lower().endswith(".gguf"):
            raise UnsafeName(
                f"the model name {_shortened(text)!r} has a file name in place of the variant",
                cure=f"name the variant, as `paddock plan {model}` prints it",
            )
        return cls(model, variant, ref)

    def __str__(self) -> str:
        variant = f":{self.variant}" if self.variant else ""
        return f"{self.model}{variant}{f'@{self.ref}' if self.ref else ''}"


@dataclass(frozen=True, slots=True)
class RequestedModel:
    """A model as a user names it on the command line: a reference, or one GGUF file of it (`file`, a path in the
    repository). With a file, the reference has no variant."""

    reference: Reference
    file: str | None = None


def parse_requested(text: str, endpoint: str = "") -> RequestedModel:
    """Parse a reference, `org/name[@REVISION]:path.gguf`, or an address of the Hub, `endpoint` among them.

    Raises UnsafeName with the text quoted.
    """
    from paddock.model.hub_address import split_address

    address = split_address(text, endpoint)
    name = text if address is None else address.model
    requested = _parse_file(name) or RequestedModel(Reference.parse(name))
    if address is None:
        return requested
    if address.ref is not None:
        requested = RequestedModel(replace(requested.reference, ref=parse_ref(address.ref)), requested.file)
    if address.path is None:
        return requested
    model = str(requested.reference)
    if address.path.lower().endswith(".gguf") and requested.file is None and requested.reference.variant is None:
        return replace(requested, file=address.path)
    if "." in address.path.rpartition("/")[2]:
        raise UnsafeName(f"{_shortened(address.path)!r} of {model} is not a GGUF file", cure=f"write {model}")
    raise UnsafeName(
        f"{_shortened(address.path)!r} of {model} is a folder",
        cure=f"name a file of it, as {model}:{address.path}/FILE.gguf, or `paddock pull {model} --file"
        f" '{address.path}/*'`",
    )


def _parse_file(text: str) -> RequestedModel | None:
    """Parse `org/name[@REVISION]:path.gguf`, also with the revision at the end; None for anything else."""
    match = re.fullmatch(_FILE, text)
    if match is None or re.match(_DRIVE, text):
        return None
    if match["ref"] and match["last_ref"]:
        raise UnsafeName(f"{_shortened(text)!r} has two revisions", cure="write org/name[@REVISION]:path.gguf")
    ref = match["ref"] or match["last_ref"]
    return RequestedModel(
        Reference(ModelName.parse(match["model"]), None, parse_ref(ref) if ref else None), match["file"]
    )


def artifact_key(kind: str, model: ModelName, subject: str) -> str:
    """The key of a Prefect artifact, `<kind>-<slug>-<8 hex>`, of `[a-z0-9-]` only and stable between runs.

    The digits are from the sha256 of `subject`: `org/name:variant`, or `org/name` before a variant is chosen.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", model.slug.lower()).strip("-")
    from hashlib import sha256

    return f"{kind}-{slug}-{sha256(subject.encode()).hexdigest()[:8]}"


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The model name, and (separator, text after it) for each `:` and `@`."""
    parts = re.split(r"([:@])", text)
    return parts[0], list(zip(parts[1::2], parts[2::2], strict=True))
