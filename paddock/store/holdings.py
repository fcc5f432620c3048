"""Holdings: what one volume of a fleet has, as it tells the others through a remote store.

    {"worker": "the volume /models of user@host", "at": "2026-05-01T03:00:00+00:00",
     "snapshots": ["org/name:Q8_0@<40 hex>"], "pinned": [...], "blobs": ["<sha256>"]}

A clean-up of the remote store keeps what a volume has. Nothing that is read is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime

from paddock.model.names import Sha256, parse_revision, parse_sha256, printable
from paddock.model.reference import Reference, SnapshotId
from paddock.untrusted.fields import text_field
from paddock.untrusted.json_text import parse_object

_MAX_BYTES = 64 * 1024 * 1024
_MAX_VALUES = 1_000_000
MAX_AGE_S = 30 * 24 * 3600.0
"""Holdings that were not written for this long are those of a volume that is gone."""
_MAX_NAMES = 500_000


def is_stale(age_s: float) -> bool:
    """Whether holdings of this age are those of a volume that is gone. One in the future has no age to rely on."""
    return abs(age_s) > MAX_AGE_S


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a volume has. `worker` says for people which volume it is; `age_s` is the time since it was written, by the
    remote store's clock."""

    worker: str
    snapshots: Set[SnapshotId]
    pinned: Set[SnapshotId]
    blobs: Set[Sha256]
    age_s: float = 0.0

    @property
    def is_stale(self) -> bool:
        return is_stale(self.age_s)

    def to_json(self) -> str:
        value = {
            "worker": self.worker,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "snapshots": sorted(map(str, self.snapshots)),
            "pinned": sorted(map(str, self.pinned)),
            "blobs": sorted(self.blobs),
        }
        return json.dumps(value)

    @classmethod
    def from_json(cls, text: str | bytes, *, age_s: float) -> Holdings:
        """Raises ValueError for anything but what `to_json` made."""
        try:
            value = parse_object(text, max_bytes=_MAX_BYTES, max_values=_MAX_VALUES)
            if any(len(value[name]) > _MAX_NAMES for name in ("snapshots", "pinned", "blobs")):
                raise ValueError(f"it names more than {_MAX_NAMES} snapshots or blobs")
            return cls(
                worker=printable(text_field(value, "worker")),
                snapshots=frozenset(map(_parse_id, value["snapshots"])),
                pinned=frozenset(map(_parse_id, value["pinned"])),
                blobs=frozenset(parse_sha256(str(one)) for one in value["blobs"]),
                age_s=age_s,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no holdings: {error}") from None


def _parse_id(text: object) -> SnapshotId:
    reference = Reference.parse(str(text))
    if reference.variant is None or reference.ref is None:
        raise ValueError(f"no snapshot: {str(text)[:100]!r}")
    return SnapshotId(reference.model, parse_revision(reference.ref), reference.variant)
