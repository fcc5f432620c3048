"""The record of a catalog entry: what its last refresh saw and did.

It is one small file for each entry, `.paddock/reports/refresh/<org--name>.<12 hex of the entry's key>.json`. It is how
a refresh knows which variant `auto` chose, and that a commit was held back: such a commit is not tried again until it,
the gates or the engine changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, Protocol

from paddock.lifecycle.catalog import Catalog, CatalogEntry
from paddock.lifecycle.clients import Clients
from paddock.model.names import Revision, parse_revision
from paddock.model.reference import Variant, parse_variant
from paddock.store.manifests import MAX_DOCUMENT_BYTES
from paddock.untrusted.fields import time_field
from paddock.untrusted.json_text import parse_object
from paddock.untrusted.records import check_record

_LOG = logging.getLogger(__name__)

WAITING: Final = "waiting for approval"
REFUSED: Final = frozenset({"blocked", "withdrawn"})
"""Outcomes of a commit that cannot be used: its files or its size are the reason."""
SETTLED: Final = REFUSED | {"held back"}
"""Outcomes after which the same commit is not tried again."""
_UNPROMOTED: Final = SETTLED | {WAITING}
_MEASURED: Final = frozenset({"promoted", "retagged", "measured"})
"""Outcomes after which the promoted snapshot was measured with the engine of the record."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The facts behind a decision beside the commit. `gates` is a digest of how the gates are decided, `engine` the
    version and build of the engine, "" where it is not installed; `fit` is a digest of the machine that `auto` chose a
    variant for, "" for an entry that names its variant."""

    gates: str = ""
    engine: str = ""
    fit: str = ""

    def same_decision(self, other: Fingerprint) -> bool:
        """Whether gates and engine are the same."""
        return (self.gates, self.engine) == (other.gates, other.engine)


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """The record of the last refresh of an entry. `revision` is the commit that it saw on the Hub, None where it saw
    none; `variant` the one that the entry stood for; `measured_with` the engine with which the promoted snapshot was
    measured last. `instead_of` is the variant that is promoted still where `auto` chose `variant` in its place, and it
    was not promoted."""

    revision: Revision | None
    variant: Variant | None
    outcome: str
    reason: str
    at: datetime
    fingerprint: Fingerprint
    measured_with: str = ""
    instead_of: Variant | None = None

    @property
    def day(self) -> str:
        return f"{self.at:%Y-%m-%d}"

    @property
    def settled(self) -> bool:
        """Whether the commit is not to be tried again."""
        return self.outcome in SETTLED

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "at": self.at.isoformat(timespec="seconds")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EntryRecord:
        """Raises KeyError, TypeError and ValueError for anything but what `to_json` made."""
        revision, variant, instead_of = value["revision"], value["variant"], value.get("instead_of")
        return cls(
            revision=None if revision is None else parse_revision(str(revision)),
            variant=None if variant is None else parse_variant(str(variant)),
            outcome=str(value["outcome"]),
            reason=str(value["reason"]),
            at=time_field(value, "at"),
            fingerprint=Fingerprint(**{key: str(text) for key, text in value["fingerprint"].items()}),
            measured_with=str(value["measured_with"]),
            instead_of=None if instead_of is None else parse_variant(str(instead_of)),
        )


class Decided(Protocol):
    """A planned entry, as far as its record is concerned."""

    @property
    def variant(self) -> Variant | None: ...

    @property
    def revision(self) -> Revision | None: ...

    @property
    def reason(self) -> str: ...

    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def record(self) -> EntryRecord | None: ...

    @property
    def instead_of(self) -> Variant | None: ...


def record_of(planned: Decided, outcome: str, reason: str = "", *, variant: Variant | None = None) -> EntryRecord:
    """The record of what was done for a planned entry. `variant` is the one that was acquired, by default the planned
    one; `reason` is by default that of the plan."""
    before = planned.record.measured_with if planned.record else ""
    return EntryRecord(
        revision=planned.revision,
        variant=variant or planned.variant,
        outcome=outcome,
        reason=reason or planned.reason,
        at=datetime.now(UTC).replace(microsecond=0),
        fingerprint=planned.fingerprint,
        measured_with=planned.fingerprint.engine if outcome in _MEASURED else before,
        instead_of=planned.instead_of if outcome in _UNPROMOTED else None,
    )


def read_records(clients: Clients, catalog: Catalog) -> dict[tuple[str, str, str, str], EntryRecord]:
    """The records of a catalog's entries, by the keys of the entries. A damaged one is ignored, with a warning."""
    records = {}
    for entry in catalog.entries:
        text = clients.volume.notes.read(_name(entry))
        if text is None:
            continue
        try:
            value = parse_object(text, max_bytes=MAX_DOCUMENT_BYTES)
            records[entry.key] = check_record(EntryRecord.from_json(value))
        except (AttributeError, KeyError, TypeError, ValueError):
            _LOG.warning("the record of the last refresh of %s is damaged, and ignored", entry.name)
    return records


def store_record(clients: Clients, entry: CatalogEntry, record: EntryRecord) -> None:
    """Replace the record of an entry. Raises NoPermission, NotEnoughDisk and StoreUnavailable."""
    clients.volume.notes.write(_name(entry), json.dumps(record.to_json()))


def _name(entry: CatalogEntry) -> str:
    digest = sha256("\n".join(entry.key).encode()).hexdigest()[:12]
    return f"refresh/{entry.model.slug.casefold()}.{digest}.json"
