"""What a snapshot is, as tables, and the laws that their rows keep: for eyes that want to see it all, and for
great-expectations, which holds the one to the other (`expectations`).

A *law* says one thing about the rows of a table, for people (`says`) and as an expectation by great-expectations' own
name (`kind`, `arguments`). The audit and the digests have judged all of this before, each in its own way: here it is
held a second time by a program that we did not write, and shown.
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
_NO_TYPES: Final = gguf.NOT_WEIGHTS - {gguf.GgmlType.I32}  # I32 holds indices
_DIGEST: Final = "^[0-9a-f]{64}$"
_OF_THE_MODEL: Final = ("context_length", "embedding_length", "block_count", "attention.head_count")
_HUB, _OURS, _ELSEWHERE, _NOT_ASKED = "the Hub", "Paddock", "nowhere", "not asked"


@dataclass(frozen=True, slots=True)
class Law:
    kind: str
    arguments: Mapping[str, Any]
    says: str
    severity: Severity = Severity.REJECT


@dataclass(frozen=True, slots=True)
class Table:
    """`about` is for a reader who has never seen a GGUF."""

    name: str
    about: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]] = field(repr=False)
    laws: tuple[Law, ...]


@dataclass(frozen=True, slots=True)
class StoredFileRow:
    """A file of a snapshot on the volume. `on_disk_bytes` is None where it is not there."""

    model: str
    revision: str
    variant: str
    path: str
    size: int
    on_disk_bytes: int | None
    sha256: str
    promoted: bool


def files(manifest: Manifest, listing: Listing | None) -> Table:
    """The files of a snapshot beside the Hub's list of the same commit; without one nothing is compared."""
    listed = {file.path: file for file in listing.files} if listing else None
    rows = [
        (file.path, file.size, *_beside(file.path, file.sha256, manifest, listed), file.sha256)
        for file in manifest.files
    ]
    return Table(
        "files",
        f"The files of {manifest.id.name} at the commit {manifest.revision} that are on the volume, each beside "
        "what the Hub lists. The “sha256” of a file is a number that no other file has: equal ones mean equal bytes. "
        "The Hub states it for large files; small ones it knows by another digest, which was compared when they came.",
        ("path", "bytes", "from", "bytes on the Hub", "sha256 on the Hub", "sha256"),
        rows,
        (
            Law("ExpectColumnValuesToBeUnique", {"column": "path"}, "Each file is there once"),
            Law("ExpectColumnValuesToMatchRegex", {"column": "sha256", "regex": _DIGEST}, "Each file has its sha256"),
            Law(
                "ExpectColumnValuesToBeInSet",
                {"column": "from", "value_set": [_HUB, _OURS, _NOT_ASKED]},
                "Each file is one that the Hub lists, or one that Paddock made",
            ),
            _pair("bytes", "bytes on the Hub", "Each file is as long as the Hub says"),
            _pair("sha256", "sha256 on the Hub", "Each large file has the sha256 that the Hub states"),
        ),
    )


def tensors(headers: Mapping[str, Header]) -> Table:
    """The tensor tables of all shards, by their file names, in order."""
    widest = max(header.alignment for header in headers.values())
    return Table(
        "tensors",
        "A model is made of “tensors”: named blocks of numbers, its weights. A GGUF lists them with their type (how "
        "many bits a weight has), their shape, and where in the file each begins. They lie one after the other, with "
        "less than one alignment of padding in between, and inside of the file.",
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
            Law("ExpectColumnValuesToBeUnique", {"column": "tensor"}, "Each tensor is there once"),
            Law(
                "ExpectColumnValueLengthsToBeBetween",
                {"column": "tensor", "min_value": 1, "max_value": gguf.MAX_NAME_BYTES},
                "Each tensor has a name that the engine can keep",
            ),
            Law(
                "ExpectColumnValuesToBeInSet",
                {"column": "type", "value_set": [kind.name for kind in gguf.GgmlType if kind not in _NO_TYPES]},
                "Each tensor has a type that a model is stored in",
            ),
            _between("weights", 1, None, "No tensor is empty"),
            _between("off alignment", 0, 0, "Each tensor begins where the engine can read it"),
            _between("gap before", 0, widest - 1, "No tensor overlaps the one before, or leaves a hole"),
            _between("left after", 0, None, "Each tensor ends inside of its file"),
        ),
    )


def metadata(headers: Mapping[str, Header]) -> Table:
    """The keys of the first shard, which speaks for the model."""
    header = next(iter(headers.values()))
    wanted = ["general.architecture", *(f"{header.architecture}.{key}" for key in _OF_THE_MODEL)]
    return Table(
        "metadata",
        "A GGUF begins with “keys and values” that say what the model is: its architecture, how much text it can look "
        "back on (its context), its vocabulary, and how a conversation is written for it. The engine believes them, so "
        "those that it needs have to be there.",
        ("key", "type", "value"),
        [(key, header.types[key].name, _value(value)) for key, value in header.metadata.items()],
        (
            Law("ExpectColumnValuesToBeUnique", {"column": "key"}, "Each key is there once"),
            Law(
                "ExpectColumnDistinctValuesToContainSet",
                {"column": "key", "value_set": wanted},
                "What the engine needs to build the model is there",
            ),
            Law(
                "ExpectColumnDistinctValuesToContainSet",
                {"column": "key", "value_set": ["tokenizer.ggml.model", "tokenizer.ggml.tokens"]},
                "The vocabulary is there",
            ),
            Law(
                "ExpectColumnDistinctValuesToContainSet",
                {"column": "key", "value_set": ["general.name", "general.file_type", "tokenizer.chat_template"]},
                "The file names itself, its quantization and its chat template",
                Severity.INFO,
            ),
        ),
    )


def inventory(stored: Sequence[StoredFileRow]) -> Table:
    """Everything on the volume. Whatever is wrong with another model warns, and holds this one up no longer."""
    return Table(
        "inventory",
        "Every file of every model on the volume, as its own record has it and as it lies on the disk. Equal files are "
        "stored once, however many models name them.",
        ("model", "revision", "variant", "path", "bytes", "bytes on disk", "promoted", "sha256"),
        [
            (
                one.model,
                one.revision[:8],
                one.variant,
                one.path,
                one.size,
                one.on_disk_bytes,
                one.promoted,
                one.sha256,
            )
            for one in stored
        ],
        (
            Law(
                "ExpectCompoundColumnsToBeUnique",
                {"column_list": ["model", "revision", "variant", "path"]},
                "Each file of a model is there once",
                Severity.WARN,
            ),
            Law(
                "ExpectColumnValuesToNotBeNull",
                {"column": "bytes on disk"},
                "Each file that a record names is on the disk",
                Severity.WARN,
            ),
            _pair("bytes", "bytes on disk", "Each file is as long as its record says", Severity.WARN),
            Law(
                "ExpectColumnValuesToMatchRegex",
                {"column": "sha256", "regex": _DIGEST},
                "Each file has its sha256",
                Severity.WARN,
            ),
        ),
    )


def _pair(ours: str, theirs: str, says: str, severity: Severity = Severity.REJECT) -> Law:
    arguments = {"column_A": ours, "column_B": theirs, "ignore_row_if": "either_value_is_missing"}
    return Law("ExpectColumnPairValuesToBeEqual", arguments, says, severity)


def _between(column: str, least: int, most: int | None, says: str) -> Law:
    return Law("ExpectColumnValuesToBeBetween", {"column": column, "min_value": least, "max_value": most}, says)


def _beside(
    path: str, sha256: str, manifest: Manifest, listed: Mapping[str, RepositoryFile] | None
) -> tuple[str, int | None, str | None]:
    """Where a file is from, and its size and sha256 on the Hub."""
    if path == CHAT_FILE or (path == TEMPLATE_FILE and sha256 == manifest.template_sha256):
        return _OURS, None, None
    if listed is None:
        return _NOT_ASKED, None, None
    there = listed.get(path)
    return (_HUB, there.size, there.sha256) if there else (_ELSEWHERE, None, None)


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
