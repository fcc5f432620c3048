"""Features of a remote store: those that Paddock needs, and what is lost without each of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature that a service may have. `lost` says what is lost without it; `is_needed`: that is everything."""

    name: str
    is_needed: bool
    lost: str


FEATURES = (
    Feature("writing", True, "the store cannot be used"),
    Feature("listing", True, "the store cannot be used"),
    Feature("multipart uploads", True, "files of more than 8 MiB cannot be sent"),
    Feature("presigned addresses", False, "files are fetched from the Hub, and `paddock restore` fails"),
    Feature("ranges", False, "a file is fetched over one connection, and after an interruption from its start"),
    Feature("conditional writes", False, "workers that start at the same moment may all fetch a file from the Hub"),
    Feature("ETag", False, "a changed object is recognised by its size and time alone"),
    Feature("length on HEAD", False, "one more request for each file"),
    Feature("checksums", False, "damage in transit is found when a file is fetched, not when it is sent"),
)


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """Whether a store has a feature. `message` says what was found, `lost` what is lost without it."""

    name: str
    ok: bool
    message: str
    lost: str


@dataclass(frozen=True, slots=True)
class StoreFeatures:
    """The features of the store with the label `where`, a row for each of FEATURES, in that order."""

    where: str
    rows: tuple[FeatureReport, ...]

    @classmethod
    def of(cls, where: str, problems: Mapping[str, str]) -> StoreFeatures:
        """From what is wrong with each feature by name; "" where nothing is."""
        return cls(
            where,
            tuple(
                FeatureReport(feature.name, not problems[feature.name], problems[feature.name] or "works", feature.lost)
                for feature in FEATURES
            ),
        )

    @property
    def is_usable(self) -> bool:
        """Whether the store has every feature that Paddock needs."""
        return all(row.ok for row, feature in zip(self.rows, FEATURES, strict=True) if feature.is_needed)

    def to_json(self) -> dict[str, Any]:
        return {"where": self.where, "features": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoreFeatures:
        return cls(value["where"], tuple(FeatureReport(**row) for row in value["features"]))
