"""Value types for the files of a model: the Hub's listing of a revision, and the manifest of a snapshot.

The manifest defines a snapshot. It is read from disks and buckets that others can write to, so every name and digest in
it is validated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

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
from paddock.untrusted.fields import MAX_COUNT, check_time
from paddock.untrusted.json_text import parse_object, replace_unsafe

MANIFEST_MAX_BYTES = 16 * 1024 * 1024  # one of 1 TiB of weights in segments of 64 MiB has 1.2 MB
SCHEMA: Literal[2] = 2
MAX_TEXT = 200
"""The characters of a text in a manifest, such as the licence's name."""
MAX_SEGMENTS = 2**20
"""The most segments of a file: 64 TiB of segments of 64 MiB."""
MAX_SEGMENT_BYTES = 2**30

RevisionField = Annotated[Revision, AfterValidator(parse_revision)]
Sha256Field = Annotated[Sha256, AfterValidator(parse_sha256)]
VariantField = Annotated[Variant, AfterValidator(parse_variant)]
SegmentField = Annotated[SegmentDigest, AfterValidator(parse_segment_digest)]
TimeField = Annotated[AwareDatetime, AfterValidator(check_time)]
TextField = Annotated[str, AfterValidator(replace_unsafe), Field(max_length=MAX_TEXT)]
PathField = Annotated[str, AfterValidator(parse_repository_path)]


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


class SnapshotFile(BaseModel):
    """A file of a snapshot. `size` is in bytes, and `segments` are the digests of its consecutive segments of the
    manifest's `segment_bytes` (the last may be shorter)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: PathField
    size: int = Field(ge=0, le=MAX_COUNT)
    sha256: Sha256Field
    segments: tuple[SegmentField, ...] = ()


class RecordedFinding(BaseModel):
    """Rule and severity of a finding of the audit before publication, as stored in the manifest."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rule: TextField
    severity: Severity


def record_findings(findings: Iterable[Finding]) -> tuple[RecordedFinding, ...]:
    """Convert findings for a manifest: unique pairs of rule and severity, sorted."""
    pairs = sorted({(finding.rule, finding.severity) for finding in findings})
    return tuple(RecordedFinding(rule=rule, severity=severity) for rule, severity in pairs)


class Manifest(BaseModel):
    """The manifest of a snapshot. It is written last and never changed.

    `files` are sorted by path. `verdict` and `findings` are from the audit before publication; later verdicts are
    stored as reports, and the worst one counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = Field(default=SCHEMA, alias="schema")
    repository: str
    revision: RevisionField
    variant: VariantField
    files: tuple[SnapshotFile, ...] = Field(max_length=100_000)
    segment_bytes: int = Field(gt=0, le=MAX_SEGMENT_BYTES)
    quantization: TextField | None
    split: int = Field(default=1, ge=1, le=100_000, description="Shards of the model; 1 when it is one file")
    licence: TextField | None
    source: Literal["hub", "s3", "local"] = "hub"
    created_at: TimeField  # snapshots are sorted by it, and Python cannot compare times with and without a time zone
    verdict: Verdict
    findings: tuple[RecordedFinding, ...] = Field(default=(), max_length=10_000)
    template_sha256: Sha256Field | None = None
    paddock_version: TextField
    engine_version: TextField

    @model_validator(mode="after")
    def _names(self) -> Manifest:
        ModelName.parse(self.repository)
        check_distinct(file.path for file in self.files)
        return self

    @model_validator(mode="after")
    def _segments(self) -> Manifest:
        for file in self.files:
            count = -(-file.size // self.segment_bytes)
            if count > MAX_SEGMENTS or len(file.segments) > count:
                raise ValueError(
                    f"{printable(file.path)} has {len(file.segments)} digests of its {count} segments of"
                    f" {self.segment_bytes} bytes; at most {MAX_SEGMENTS} are possible"
                )
        return self

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
        return self.model_dump_json(by_alias=True, indent=2)

    @classmethod
    def from_json(
        cls, text: str | bytes, *, where: str, cure: str = "remove that snapshot and pull it again"
    ) -> Manifest:
        """Parse a manifest. Raises CorruptFile with `where`, the place of the manifest, and the first error in it."""
        try:
            return cls.model_validate(parse_object(text, max_bytes=MANIFEST_MAX_BYTES))
        except UnusableContent as error:
            key, reason = error.key, error.reason
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key, reason = ".".join(str(part) for part in first["loc"]), first["msg"]
        raise CorruptFile(
            f"the manifest {where} is not valid for schema {SCHEMA}: {printable(key) or 'document'}: {reason}",
            cure=cure,
        )
