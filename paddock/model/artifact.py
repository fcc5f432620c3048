"""What is known of a model's files: as the Hub lists them, and as a snapshot holds them.

The manifest is the one document that says what a snapshot is. It comes back from disks and buckets that others can
write, so reading one parses every name and digest in it again.
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

SCHEMA: Literal[2] = 2

RevisionField = Annotated[Revision, AfterValidator(parse_revision)]
Sha256Field = Annotated[Sha256, AfterValidator(parse_sha256)]
VariantField = Annotated[Variant, AfterValidator(parse_variant)]
SegmentField = Annotated[SegmentDigest, AfterValidator(parse_segment_digest)]
PathField = Annotated[str, AfterValidator(parse_repository_path)]


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file as the Hub lists it: `sha256` where the Hub holds it in LFS or Xet, else `git_sha1`, the digest of git's
    blob object.

    `path` is as the Hub says it, and not yet safe: `parse_repository_path` is due before it names anything.
    """

    path: str
    size: int
    sha256: Sha256 | None
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """One revision of a repository: the commit that a branch or tag was resolved to, and its files. `variants` are
    names that snapshots of it were published with, by the first path of the model, where the Hub's own list is not at
    hand."""

    model: ModelName
    revision: Revision
    files: tuple[RepositoryFile, ...]
    licence: str | None
    library: str | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)


class SnapshotFile(BaseModel):
    """A file of a snapshot. `segments` are the digests of its consecutive segments of `segment_bytes` (the last may be
    shorter)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: PathField
    size: int = Field(ge=0)
    sha256: Sha256Field
    segments: tuple[SegmentField, ...] = ()


class RecordedFinding(BaseModel):
    """A finding of the audit before publication, as the manifest keeps it: the rule and its severity."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rule: str = Field(max_length=200)
    severity: Severity


def record_findings(findings: Iterable[Finding]) -> tuple[RecordedFinding, ...]:
    """The findings as a manifest holds them: each rule once with each severity, sorted."""
    pairs = sorted({(finding.rule, finding.severity) for finding in findings})
    return tuple(RecordedFinding(rule=rule, severity=severity) for rule, severity in pairs)


class Manifest(BaseModel):
    """The manifest of a snapshot: written last, and never changed. `files` are sorted by path; `segment_bytes` is the
    length of a segment. `verdict` and `findings` are those of the audit before the publication; later verdicts are
    reports, and the worst one counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = Field(default=SCHEMA, alias="schema")
    repository: str
    revision: RevisionField
    variant: VariantField
    files: tuple[SnapshotFile, ...]
    segment_bytes: int = Field(gt=0)
    quantization: str | None
    split: int = Field(default=1, ge=1, description="Shards of the model; 1 when it is one file")
    licence: str | None
    source: Literal["hub", "s3", "local"] = "hub"
    created_at: AwareDatetime  # snapshots are sorted by it, and times with and without a zone do not compare
    verdict: Verdict
    findings: tuple[RecordedFinding, ...] = ()
    template_sha256: Sha256Field | None = None
    paddock_version: str
    engine_version: str

    @model_validator(mode="after")
    def _names(self) -> Manifest:
        ModelName.parse(self.repository)
        check_distinct(file.path for file in self.files)
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
        """The digests of its GGUF files: two snapshots with the same ones have the same weights."""
        return frozenset(file.sha256 for file in self.files if file.path.lower().endswith(".gguf"))

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2)

    @classmethod
    def from_json(
        cls, text: str | bytes, *, where: str, cure: str = "remove that snapshot and pull it again"
    ) -> Manifest:
        """Parse a manifest. Raises CorruptFile that names `where` it was found."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "document"
            raise CorruptFile(
                f"the manifest {where} is not a manifest of schema {SCHEMA}: {printable(key)}: {first['msg']}",
                cure=cure,
            ) from None
