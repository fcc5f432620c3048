"""Volume use: how many bytes each model takes on the volume, and what it took before.

The history is a note on the volume, `.paddock/reports/volume/use.json`, replaced as a whole:

    {"samples": [{"at": ISO 8601 in UTC, "free_bytes": N, "models": {"org/name": N}, "other_models_bytes": N,
     "unused_bytes": N}]}

A day has one sample, its last, and the newest 730 samples are kept. Two processes that write at once leave the sample
of one of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from paddock.lifecycle.clients import Clients
from paddock.model.names import Sha256
from paddock.model.units import human_bytes
from paddock.store.manifests import MAX_DOCUMENT_BYTES
from paddock.untrusted.fields import time_field
from paddock.untrusted.json_text import parse_object
from paddock.untrusted.records import check_record

MOST_SAMPLES = 730
MOST_MODELS = 12
"""Models that a sample names, the largest ones; the others are one sum."""

_NOTE = "volume/use.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UseSample:
    """The use of the volume at one time. Blobs that several models share count for the first of them by name.
    `unused_bytes` are blobs that no snapshot names."""

    at: datetime
    free_bytes: int
    models: Mapping[str, int]
    other_models_bytes: int = 0
    unused_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        return sum(self.models.values()) + self.other_models_bytes + self.unused_bytes

    @property
    def line(self) -> str:
        return f"{human_bytes(self.used_bytes)} used, {human_bytes(self.free_bytes)} free"

    def to_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(timespec="seconds"),
            "free_bytes": self.free_bytes,
            "models": dict(self.models),
            "other_models_bytes": self.other_models_bytes,
            "unused_bytes": self.unused_bytes,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises ValueError, KeyError or TypeError for anything that `to_json` does not write."""
        at = time_field(value, "at")
        models = {str(model): _size(size) for model, size in value["models"].items()}
        sizes = (_size(value[name]) for name in ("free_bytes", "other_models_bytes", "unused_bytes"))
        free_bytes, other_models_bytes, unused_bytes = sizes
        return cls(at, free_bytes, models, other_models_bytes, unused_bytes)


@dataclass(frozen=True, slots=True)
class UseHistory:
    """Samples of the volume, oldest first."""

    samples: tuple[UseSample, ...] = ()

    def add(self, sample: UseSample) -> UseHistory:
        """The history with one more sample, which replaces that of the same day."""
        before = [one for one in self.samples if one.at.date() < sample.at.date()]
        return UseHistory((*before, sample)[-MOST_SAMPLES:])

    def to_json(self) -> dict[str, Any]:
        return {"samples": [sample.to_json() for sample in self.samples]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises as `UseSample.from_json`."""
        return cls(tuple(map(UseSample.from_json, value["samples"])))


def sample(clients: Clients) -> UseSample:
    """The use of the volume now. Reads manifests and sizes, and no blob."""
    named: dict[Sha256, int] = {}
    models: dict[str, int] = {}
    for manifest in sorted(clients.volume.snapshots(), key=lambda manifest: manifest.repository):
        new = {file.sha256: file.size for file in manifest.files if file.sha256 not in named}
        named |= new
        models[manifest.repository] = models.get(manifest.repository, 0) + sum(new.values())
    _, stored_bytes = clients.volume.sizes()
    largest = sorted(models, key=lambda model: (-models[model], model))
    shown, others = largest[:MOST_MODELS], largest[MOST_MODELS:]
    return UseSample(
        at=datetime.now(UTC),
        free_bytes=clients.volume.disk.free_bytes(),
        models={model: models[model] for model in shown},
        other_models_bytes=sum(models[model] for model in others),
        unused_bytes=max(0, stored_bytes - sum(named.values())),
    )


def read(clients: Clients) -> UseHistory:
    """The history of the volume, empty where there is none yet. A damaged one is logged, and begins anew."""
    text = clients.volume.notes.read(_NOTE)
    try:
        if text is not None:
            return check_record(UseHistory.from_json(parse_object(text, max_bytes=MAX_DOCUMENT_BYTES)))
    except (ValueError, KeyError, TypeError, AttributeError):
        _LOG.warning("the history of the volume's use was damaged, and begins anew")
    return UseHistory()


def record(clients: Clients) -> UseHistory:
    """Add a sample of now to the history, and return the history. On a volume that cannot be written, nothing is
    recorded, which is said once."""
    history = read(clients).add(sample(clients))
    with clients.volume.recording():
        clients.volume.notes.write(_NOTE, json.dumps(history.to_json()))
    return history


def _size(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a size is not a number of bytes")
    return value
