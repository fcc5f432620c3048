"""Value types for the files of a model: the Hub's listing of a revision, and the manifest of a snapshot.

The manifest defines a snapshot. It is read from disks and buckets that others can write to, so every name and digest in
it is validated again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from paddock.errors import CorruptFile
from paddock.model.finding import Finding, Severity, Verdict
from paddock.model.names import (
    ModelName,
    Revision,
    SegmentDigest,
    Sha256,
    check_distinct,
    parse_repository_path,
    parse_revision,
    parse_segment_digest,
    parse_sha256,
    printable,
)
from paddock.model.reference import SnapshotId, Variant, parse_variant
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import (
    MAX_COUNT,
    check_time,
    choice_field,
    count_field,
    list_field,
    object_with,
    text_field,
    text_or_none,
    time_field,
)
from paddock.untrusted.json_text import kind_of, parse_object, replace_unsafe

MANIFEST_MAX_BYTES = 16 * 1024 * 1024  # one of 1 TiB of weights in segments of 64 MiB has 1.2 MB
SCHEMA: Literal[2] = 2
MAX_TEXT = 200
"""The characters of a text in a manifest, such as the licence's name."""
MAX_SEGMENTS = 2**20
"""The most segments of a file: 64 TiB of segments of 64 MiB."""
MAX_SEGMENT_BYTES = 2**30

Source = Literal["hub", "s3", "local"]
_SOURCES: tuple[Source, ...] = ("hub", "s3", "local")
_MAX_FILES, _MAX_FINDINGS, _MAX_SPLIT = 100_000, 10_000, 100_000


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file in the Hub's listing; `size` is in bytes.

    `sha256` is known for files in LFS or Xet, `git_sha1`, the digest of git's blob object, for all others. `path` is
    untrusted: validate it with `parse_repository_path` before use.
    """

    path: str
    size: int
    sha256: Sha256 | None
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class BranchHead:
    """The commit that a branch or tag is at, and the Hub's own name of the model."""

    model: ModelName
    revision: Revision


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one revision of a repository.

    `revision` is the commit that a branch or tag was resolved to. `licence` and `library` are from the model card.
    `gated`: the Hub gives the files only to accounts with access. If the listing was made from published snapshots
    instead of the Hub, `variants` has their variants by the first path of each model.
    """

    model: ModelName
    revision: Revision
    files: tuple[RepositoryFile, ...]
    licence: str | None
    library: str | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    gated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFile:
    """A file of a snapshot. `size` is in bytes, and `segments` are the digests of its consecutive segments of the
    manifest's `segment_bytes` (the last may be shorter). Raises UnusableContent for an unsafe path, no digest, or a
    size that is negative or over `MAX_COUNT`."""

    path: str
    size: int
    sha256: Sha256
    segments: tuple[SegmentDigest, ...] = ()

    def __post_init__(self) -> None:
        _check("path", parse_repository_path, self.path)
        _check_number("size", self.size, 0, MAX_COUNT)
        _check("sha256", parse_sha256, self.sha256)
        for number, digest in enumerate(self.segments):
            _check(f"segments.{number}", parse_segment_digest, digest)

    @classmethod
    def from_value(cls, value: object) -> SnapshotFile:
        """Read a part of a document. Raises UnusableContent."""
        fields = object_with(value, keys=("path", "size", "sha256", "segments"))
        segments = list_field(fields, "segments", _text, at_most=MAX_SEGMENTS) if "segments" in fields else ()
        return cls(
            path=text_field(fields, "path"),
            size=count_field(fields, "size"),
            sha256=Sha256(text_field(fields, "sha256")),
            segments=tuple(map(SegmentDigest, segments)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFinding:
    """Rule and severity of a finding of the audit before publication, as stored in the manifest."""

    rule: str
    severity: Severity

    def __post_init__(self) -> None:
        _replace_unsafe(self, "rule")

    @classmethod
    def from_value(cls, value: object) -> RecordedFinding:
        """Read a part of a document, of which other keys are ignored. Raises UnusableContent."""
        fields = object_with(value)
        return cls(rule=text_field(fields, "rule"), severity=choice_field(fields, "severity", Severity))


def record_findings(findings: Iterable[Finding]) -> tuple[RecordedFinding, ...]:
    """Convert findings for a manifest: unique pairs of rule and severity, sorted."""
    pairs = sorted({(finding.rule, finding.severity) for finding in findings})
    return tuple(RecordedFinding(rule=rule, severity=severity) for rule, severity in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest of a snapshot. It is written last and never changed.

    `files` are sorted by path. `verdict` and `findings` are from the audit before publication; later verdicts are
    stored as reports, and the worst one counts. `split` is the number of the model's shards, 1 when it is one file. A
    name, digest, size or text out of bounds raises UnusableContent.
    """

    schema_version: Literal[2] = SCHEMA
    repository: str
    revision: Revision
    variant: Variant
    files: tuple[SnapshotFile, ...]
    segment_bytes: int
    quantization: str | None
    split: int = 1
    licence: str | None
    source: Source = "hub"
    created_at: datetime  # snapshots are sorted by it, and Python cannot compare times with and without a time zone
    verdict: Verdict
    findings: tuple[RecordedFinding, ...] = ()
    template_sha256: Sha256 | None = None
    paddock_version: str
    engine_version: str

    def __post_init__(self) -> None:
        _check("repository", ModelName.parse, self.repository)
        _check("revision", parse_revision, self.revision)
        _check("variant", parse_variant, self.variant)
        _check_number("segment_bytes", self.segment_bytes, 1, MAX_SEGMENT_BYTES)
        _check_number("split", self.split, 1, _MAX_SPLIT)
        check_time(self.created_at, key="created_at")
        if self.template_sha256 is not None:
            _check("template_sha256", parse_sha256, self.template_sha256)
        for name in ("quantization", "licence", "paddock_version", "engine_version"):
            _replace_unsafe(self, name)
        _check("files", check_distinct, [file.path for file in self.files])
        for number, file in enumerate(self.files):
            count = -(-file.size // self.segment_bytes)
            if count > MAX_SEGMENTS or len(file.segments) > count:
                raise UnusableContent(
                    f"{printable(file.path)} has {len(file.segments)} digests of its {count} segments of"
                    f" {self.segment_bytes} bytes; at most {MAX_SEGMENTS} are possible",
                    key=f"files.{number}.segments",
                )

    @property
    def model(self) -> ModelName:
        return ModelName.parse(self.repository)

    @property
    def id(self) -> SnapshotId:
        return SnapshotId(self.model, self.revision, self.variant)

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def weights(self) -> frozenset[Sha256]:
        """The digests of its GGUF files. They are equal for two snapshots exactly if the weights are."""
        return frozenset(file.sha256 for file in self.files if file.path.lower().endswith(".gguf"))

    def to_json(self) -> str:
        fields = asdict(self)
        document = {"schema": fields.pop("schema_version"), **fields}
        document["created_at"] = self.created_at.isoformat().replace("+00:00", "Z")
        return json.dumps(document, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(
        cls, text: str | bytes, *, where: str, cure: str = "remove that snapshot and pull it again"
    ) -> Manifest:
        """Parse a manifest. Raises CorruptFile with `where`, the place of the manifest, and the first error in it."""
        try:
            return cls._from_document(parse_object(text, max_bytes=MANIFEST_MAX_BYTES))
        except UnusableContent as error:
            key, reason = error.key, error.reason
        raise CorruptFile(
            f"the manifest {where} is not valid for schema {SCHEMA}: {printable(key) or 'document'}: {reason}",
            cure=cure,
        )

    @classmethod
    def _from_document(cls, value: dict[str, Any]) -> Manifest:
        document = {"schema": SCHEMA, "split": 1, "source": "hub", "findings": [], "template_sha256": None, **value}
        object_with(document, keys=_KEYS)
        if count_field(document, "schema") != SCHEMA:
            raise UnusableContent(f"{SCHEMA} was expected, not {document['schema']}", key="schema")
        source = next((source for source in _SOURCES if source == document["source"]), None)
        if source is None:
            raise UnusableContent(f"one of {', '.join(_SOURCES)} was expected", key="source")
        digest = text_or_none(document, "template_sha256")
        return cls(
            repository=text_field(document, "repository"),
            revision=Revision(text_field(document, "revision")),
            variant=Variant(text_field(document, "variant")),
            files=list_field(document, "files", SnapshotFile.from_value, at_most=_MAX_FILES),
            segment_bytes=count_field(document, "segment_bytes"),
            quantization=text_or_none(document, "quantization"),
            split=count_field(document, "split"),
            licence=text_or_none(document, "licence"),
            source=source,
            created_at=time_field(document, "created_at"),
            verdict=choice_field(document, "verdict", Verdict),
            findings=list_field(document, "findings", RecordedFinding.from_value, at_most=_MAX_FINDINGS),
            template_sha256=Sha256(digest) if digest is not None else None,
            paddock_version=text_field(document, "paddock_version"),
            engine_version=text_field(document, "engine_version"),
        )


_KEYS = frozenset({"schema", *Manifest.__slots__}) - {"schema_version"}


def _check(key: str, parse: Callable[[Any], object], value: object) -> None:
    try:
        parse(value)
    except ValueError as error:
        reason = str(error)
    else:
        return
    raise UnusableContent(reason, key=key)


def _check_number(key: str, number: int, at_least: int, at_most: int) -> None:
    if not at_least <= number <= at_most:
        raise UnusableContent(f"a number from {at_least} to {at_most} was expected, not {number}", key=key)


def _replace_unsafe(record: RecordedFinding | Manifest, name: str) -> None:
    """Replace what cannot be written of a text, and check its length."""
    text = getattr(record, name)
    if text is None:
        return
    if len(text) > MAX_TEXT:
        raise UnusableContent(f"a text of at most {MAX_TEXT} characters was expected, not of {len(text)}", key=name)
    object.__setattr__(record, name, replace_unsafe(text))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UnusableContent(f"a text was expected, and it holds {kind_of(value)}")
    return value
