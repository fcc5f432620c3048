"""What is known of a model's files: as the Hub lists them, and as a snapshot holds them.

The manifest is the one document that says what a snapshot is. It comes back from disks and buckets that others can
write, so reading one parses every name and digest in it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from paddock.errors import CorruptFile
from paddock.model.finding import Verdict
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
    shown,
)

SCHEMA: Literal[1] = 1

RevisionField = Annotated[Revision, AfterValidator(parse_revision)]
Sha256Field = Annotated[Sha256, AfterValidator(parse_sha256)]
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
    """One revision of a repository on the Hub: the commit that a branch or tag was resolved to, and all its files."""

    model: ModelName
    revision: Revision
    files: tuple[RepositoryFile, ...]
    licence: str | None
    library: str | None = None


class SnapshotFile(BaseModel):
    """A file of a snapshot. `segments` are the digests of its consecutive segments of `segment_bytes` (the last may be
    shorter)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: PathField
    size: int = Field(ge=0)
    sha256: Sha256Field
    segments: tuple[SegmentField, ...] = ()


class Manifest(BaseModel):
    """The manifest of a snapshot: written last, and never again. `files` are sorted by path; `segment_bytes` is the
    length of a segment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    repository: str
    revision: RevisionField
    files: tuple[SnapshotFile, ...]
    segment_bytes: int = Field(gt=0)
    quantization: str | None
    split: int = Field(default=1, ge=1, description="Shards of the model; 1 when it is one file")
    licence: str | None
    source: Literal["hub", "s3", "local"] = "hub"
    created_at: AwareDatetime  # snapshots are sorted by it, and times with and without a zone do not compare
    verdict: Verdict
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
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Manifest:
        """Parse a manifest. Raises CorruptFile that names `where` it was found."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "document"
            raise CorruptFile(
                f"the manifest {where} is not a manifest of schema {SCHEMA}: {shown(key)}: {first['msg']}",
                cure="remove that snapshot and pull it again",
            ) from None
