"""A snapshot of the volume as it is listed: its manifest, and what is known of its use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from paddock.model.artifact import Manifest


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot as `paddock ls` lists it. `default`: the model's name stands for it; `size_bytes` counts blobs that it
    shares with other snapshots too."""

    manifest: Manifest
    promoted: bool
    default: bool
    pinned: bool
    last_used: datetime | None
    size_bytes: int
