"""Record the result of the last scrub of each store, and of the last refresh, as notes on the volume.

    .paddock/reports/volume/last-scrub-volume.json, last-scrub-s3.json
        {"at": ISO 8601 in UTC, "seconds": 12.5, "read_bytes": N, "damaged": N, "repaired": N, "complete": true}
    .paddock/reports/volume/last-refresh.json
        {"at": ISO 8601 in UTC, "outcomes": {"unchanged": 3, "held back": 1}, "failures": N}

`paddock metrics` reads them. A record that cannot be written is logged, and fails nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, TypeVar

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.store.manifests import MAX_DOCUMENT_BYTES
from paddock.untrusted.fields import count_field, time_field
from paddock.untrusted.json_text import parse_object
from paddock.untrusted.records import check_record

StoreName = Literal["volume", "s3"]
_LOG = logging.getLogger(__name__)
_CLOCK_ERROR = timedelta(days=1)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class ScrubRecord:
    """A scrub, or a verification of everything, that ended at `at`. `damaged` are the blobs that were found damaged,
    and `repaired` how many of them are sound again. `complete`: nothing was left to read."""

    read_bytes: int
    seconds: float
    damaged: int
    repaired: int
    complete: bool
    at: datetime = field(default_factory=_now)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises ValueError, KeyError or TypeError for anything that `to_json` does not write."""
        counts = (count_field(value, name) for name in ("read_bytes", "damaged", "repaired"))
        read_bytes, damaged, repaired = counts
        return cls(read_bytes, value["seconds"], damaged, repaired, value["complete"], time_field(value, "at"))


@dataclass(frozen=True, slots=True)
class RefreshRecord:
    """A refresh that ended at `at`: how many entries had each outcome, and how many that the catalog requires
    failed."""

    outcomes: Mapping[str, int]
    failures: int
    at: datetime = field(default_factory=_now)

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at.isoformat(), "outcomes": dict(self.outcomes), "failures": self.failures}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises as `ScrubRecord.from_json`."""
        outcomes = value["outcomes"]
        counts = {name: count_field(outcomes, name) for name in outcomes}
        return cls(counts, count_field(value, "failures"), time_field(value, "at"))


_Record = TypeVar("_Record", ScrubRecord, RefreshRecord)


def store_scrub(clients: Clients, store: StoreName, record: ScrubRecord) -> None:
    """Replace the record of the last scrub of a store."""
    _write(clients, f"last-scrub-{store}", record)


def store_refresh(clients: Clients, record: RefreshRecord) -> None:
    """Replace the record of the last refresh."""
    _write(clients, "last-refresh", record)


def last_scrub(clients: Clients, store: StoreName) -> ScrubRecord | None:
    """The last scrub of a store; None where there was none, or its record cannot be used."""
    return _read(clients, f"last-scrub-{store}", ScrubRecord)


def last_refresh(clients: Clients) -> RefreshRecord | None:
    """The last refresh; None where there was none, or its record cannot be used."""
    return _read(clients, "last-refresh", RefreshRecord)


def _write(clients: Clients, name: str, record: ScrubRecord | RefreshRecord) -> None:
    volume = clients.volume
    try:
        if volume.exists:
            with volume.recording():
                volume.notes.write(f"volume/{name}.json", json.dumps(record.to_json()))
    except PaddockError as error:
        _LOG.warning("the record %s was not written: %s", name, error.message)


def _read(clients: Clients, name: str, kind: type[_Record]) -> _Record | None:
    text = clients.volume.notes.read(f"volume/{name}.json")
    try:
        if text is None:
            return None
        record = check_record(kind.from_json(parse_object(text, max_bytes=MAX_DOCUMENT_BYTES)))
    except (ValueError, KeyError, TypeError, AttributeError):
        _LOG.warning("the record %s on %s is damaged, and ignored", name, clients.volume.label)
        return None
    return record if record.at <= datetime.now(UTC) + _CLOCK_ERROR else None
