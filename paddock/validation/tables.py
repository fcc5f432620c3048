"""Tables that describe a snapshot, each with the expectations that its rows must meet.

There are the snapshot's files, its tensors, its GGUF metadata, the inventory of the whole volume, and where it was
compared with what is promoted, its gates. An
*expectation* is one condition on the rows of a table: a sentence for people (`description`), and the name and arguments
of an expectation of great-expectations (`kind`, `arguments`). The audit and the digests check the same facts in other
ways; these tables show them to people, and let a program from outside of this project check them a second time.

This module only builds tables. `paddock.validation.expectations` checks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE
from paddock.gguf import format as gguf
from paddock.gguf.header import Array, Header
from paddock.model.artifact import Listing, Manifest, RepositoryFile
from paddock.model.finding import Severity

_SHOWN_CHARACTERS: Final = 120
_NEVER_STORED: Final = gguf.NOT_WEIGHTS - {gguf.GgmlType.I32}  # I32 holds indices
_DIGEST: Final = "^[0-9a-f]{64}$"
_REQUIRED_KEYS: Final = ("context_length", "embedding_length", "block_count", "attention.head_count")
_HUB, _PADDOCK, _UNKNOWN, _NOT_COMPARED = "the Hub", "Paddock", "unknown", "not compared"


@dataclass(frozen=True, slots=True)
class Expectation:
    """One condition on the rows of a table.

    `kind` is the name of a class in `great_expectations.expectations`, `arguments` are its arguments, and `description`
    is the condition in plain words. `severity` is that of the finding when the condition does not hold.
    """

    kind: str
    arguments: Mapping[str, Any]
    description: str
    severity: Severity = Severity.REJECT


@dataclass(frozen=True, slots=True)
class Table:
    """Rows, and the expectations on them. `description` explains the table to a reader who has never seen a GGUF."""

    name: str
    description: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]] = field(repr=False)
    expectations: tuple[Expectation, ...]


@dataclass(frozen=True, slots=True)
class StoredFileRow:
    """A file that a manifest on the volume lists. `size` is its size in the manifest, `on_disk_bytes` the size of the
    file on disk, None if the file is missing. Both are bytes."""

    model: str
    revision: str
    variant: str
    path: str
    size: int
    on_disk_bytes: int | None
    sha256: str
    promoted: bool


@dataclass(frozen=True, slots=True)
class GateTableRow:
    """A gate: its name, which is a word, its bound in words, and its outcome. `figure` is the number that it decided
    by, with the `least` or the `most` that it may be; None where it decided without one."""

    name: str
    bound: str
    outcome: str
    figure: float | None = None
    least: float | None = None
    most: float | None = None


FAILED: Final = "failed"
"""The outcome of a gate that was not passed."""


def files(manifest: Manifest, listing: Listing | None) -> Table:
    """The table of a snapshot's files, compared with the Hub's listing of the same commit, if there is one."""
    listed = {file.path: file for file in listing.files} if listing else None
    rows = [
        (file.path, file.size, *_on_hub(file.path, file.sha256, manifest, listed), file.sha256)
        for file in manifest.files
    ]
    return Table(
        "files",
        f"The files of {manifest.id.name} at the commit {manifest.revision} on the volume, each compared with the "
        "Hub's listing. The “sha256” of a file is computed from its bytes: two files with the same sha256 are equal. "
        "The Hub lists it for large files only. For small files it lists another digest, which was compared when they "
        "were downloaded.",
        ("path", "bytes", "from", "bytes on the Hub", "sha256 on the Hub", "sha256"),
        rows,
        (
            Expectation("ExpectColumnValuesToBeUnique", {"column": "path"}, "No file is listed twice"),
            Expectation(
                "ExpectColumnValuesToMatchRegex", {"column": "sha256", "regex": _DIGEST}, "Each file has a valid sha256"
            ),
            Expectation(
                "ExpectColumnValuesToBeInSet",
                {"column": "from", "value_set": [_HUB, _PADDOCK, _NOT_COMPARED]},
                "Each file is listed on the Hub or was made by Paddock",
            ),
            _equal("bytes", "bytes on the Hub", "Each file has the size that the Hub lists"),
            _equal("sha256", "sha256 on the Hub", "Each large file has the sha256 that the Hub lists"),
        ),
    )


def tensors(headers: Mapping[str, Header]) -> Table:
    """The table of all tensors. `headers` maps the file name of each shard to its header, in the order of shards."""
    widest = max(header.alignment for header in headers.values())
    return Table(
        "tensors",
        "The weights of a model are stored as “tensors”, named blocks of numbers. A GGUF lists each tensor, its type "
        "(how many bits a weight has), its shape, and its offset in the file. Tensors follow one another with less "
        "padding in between than one alignment, and all end inside of the file.",
        (
            "file",
            "tensor",
            "type",
            "shape",
            "weights",
            "begins at",
            "bytes",
            "off alignment",
            "gap before",
            "left after",
        ),
        [row for name, header in headers.items() for row in _tensor_rows(PurePosixPath(name).name, header)],
        (
            Expectation("ExpectColumnValuesToBeUnique", {"column": "tensor"}, "No tensor is listed twice"),
            Expectation(
                "ExpectColumnValueLengthsToBeBetween",
                {"column": "tensor", "min_value": 1, "max_value": gguf.MAX_NAME_BYTES},
                "Each tensor has a name that is not too long for llama.cpp",
            ),
            Expectation(
                "ExpectColumnValuesToBeInSet",
                {"column": "type", "value_set": [kind.name for kind in gguf.GgmlType if kind not in _NEVER_STORED]},
                "Each tensor has a type that is used to store weights",
            ),
            _between("weights", 1, None, "No tensor is empty"),
            _between("off alignment", 0, 0, "Each tensor begins at a multiple of the alignment"),
            _between("gap before", 0, widest - 1, "Each tensor follows the one before, without overlap or gap"),
            _between("left after", 0, None, "Each tensor ends inside of its file"),
        ),
    )


def metadata(headers: Mapping[str, Header]) -> Table:
    """The table of the first shard's metadata, which describes the whole model."""
    header = next(iter(headers.values()))
    required = ["general.architecture", *(f"{header.architecture}.{key}" for key in _REQUIRED_KEYS)]
    return Table(
        "metadata",
        "A GGUF begins with “metadata”, keys and values that describe the model: its architecture, the length of text "
        "that it can take into account (its context), its vocabulary, and the format of a conversation (its chat "
        "template). llama.cpp relies on them, so the keys that it needs must be present.",
        ("key", "type", "value"),
        [(key, header.types[key].name, _value(value)) for key, value in header.metadata.items()],
        (
            Expectation("ExpectColumnValuesToBeUnique", {"column": "key"}, "No key is listed twice"),
            Expectation(
                "ExpectColumnDistinctValuesToContainSet",
                {"column": "key", "value_set": required},
                "The keys that llama.cpp needs to build the model are present",
            ),
            Expectation(
                "ExpectColumnDistinctValuesToContainSet",
                {"column": "key", "value_set": ["tokenizer.ggml.model", "tokenizer.ggml.tokens"]},
                "The vocabulary is present",
            ),
            Expectation(
                "ExpectColumnDistinctValuesToContainSet",
                {"column": "key", "value_set": ["general.name", "general.file_type", "tokenizer.chat_template"]},
                "The file states its name, its quantization and its chat template",
                Severity.INFO,
            ),
        ),
    )


def inventory(files: Sequence[StoredFileRow]) -> Table:
    """The table of all files on the volume. Its expectations only warn: damage to another model must not reject this
    one."""
    return Table(
        "inventory",
        "All files of all models on the volume, with their sizes in the model's manifest and on disk. Equal files are "
        "stored once, however many models list them.",
        ("model", "revision", "variant", "path", "bytes", "bytes on disk", "promoted", "sha256"),
        [
            (
                file.model,
                file.revision[:8],
                file.variant,
                file.path,
                file.size,
                file.on_disk_bytes,
                file.promoted,
                file.sha256,
            )
            for file in files
        ],
        (
            Expectation(
                "ExpectCompoundColumnsToBeUnique",
                {"column_list": ["model", "revision", "variant", "path"]},
                "No file of a model is listed twice",
                Severity.WARN,
            ),
            Expectation(
                "ExpectColumnValuesToNotBeNull",
                {"column": "bytes on disk"},
                "Each file that a manifest lists is on disk",
                Severity.WARN,
            ),
            _equal("bytes", "bytes on disk", "Each file has the size that its manifest lists", Severity.WARN),
            Expectation(
                "ExpectColumnValuesToMatchRegex",
                {"column": "sha256", "regex": _DIGEST},
                "Each file has a valid sha256",
                Severity.WARN,
            ),
        ),
    )


def gates(rows: Sequence[GateTableRow], *, against: str) -> Table:
    """The table of a snapshot's gates `against` what was promoted: one row, with a column for each gate. It holds the
    figure that the gate decided by, and its expectation the bound; the outcome in words where there is no figure."""
    return Table(
        "gates",
        f"What was measured of this model {against}. Each gate is a bound that it has to keep to replace what is "
        "promoted. A gate's value is the number that it decided by, such as the end of an interval; its outcome where "
        "there is none. The reasons are in the report and in the dossier.",
        tuple(row.name for row in rows),
        [tuple(row.outcome if row.figure is None else row.figure for row in rows)],
        tuple(map(_gate, rows)),
    )


def _gate(row: GateTableRow) -> Expectation:
    kind = "ExpectColumnValuesToNotBeInSet"
    limits: dict[str, Any] = {"value_set": [FAILED]}
    if row.figure is not None:
        kind, limits = "ExpectColumnValuesToBeBetween", {"min_value": row.least, "max_value": row.most}
    return Expectation(kind, {"column": row.name, **limits}, f"{row.name}: {row.bound}", Severity.INFO)


def _equal(ours: str, theirs: str, description: str, severity: Severity = Severity.REJECT) -> Expectation:
    arguments = {"column_A": ours, "column_B": theirs, "ignore_row_if": "either_value_is_missing"}
    return Expectation("ExpectColumnPairValuesToBeEqual", arguments, description, severity)


def _between(column: str, minimum: int, maximum: int | None, description: str) -> Expectation:
    return Expectation(
        "ExpectColumnValuesToBeBetween", {"column": column, "min_value": minimum, "max_value": maximum}, description
    )


def _on_hub(
    path: str, sha256: str, manifest: Manifest, listed: Mapping[str, RepositoryFile] | None
) -> tuple[str, int | None, str | None]:
    """(origin of a file, its size on the Hub in bytes, its sha256 on the Hub)."""
    if path == CHAT_FILE or (path == TEMPLATE_FILE and sha256 == manifest.template_sha256):
        return _PADDOCK, None, None
    if listed is None:
        return _NOT_COMPARED, None, None
    file = listed.get(path)
    return (_HUB, file.size, file.sha256) if file else (_UNKNOWN, None, None)


def _tensor_rows(name: str, header: Header) -> Iterator[tuple[Any, ...]]:
    end = 0
    for tensor in header.tensors:
        shape = " × ".join(map(str, tensor.shape))
        left = header.size - header.data_offset - tensor.offset - tensor.size_bytes
        misplaced = tensor.offset % header.alignment
        gap = tensor.offset - end
        yield (
            name,
            tensor.name,
            tensor.type.name,
            shape,
            tensor.elements,
            header.data_offset + tensor.offset,
            tensor.size_bytes,
            misplaced,
            gap,
            left,
        )
        end = tensor.offset + tensor.size_bytes


def _value(value: object) -> str:
    if isinstance(value, Array):
        return f"{value.count} × {value.type.name}"
    return str(value)[:_SHOWN_CHARACTERS]
