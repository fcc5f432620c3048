"""The files of an acquisition: as they are planned, and as they are on the volume in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paddock.model.artifact import RepositoryFile, SnapshotFile
from paddock.model.finding import Finding
from paddock.model.source import Expected

Origin = Literal["hub", "s3", "volume"]
"""Where a file comes from: `s3` stands for the remote store, whichever it is, in JSON and artifacts."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a plan: what it must be, and where it will come from. `leased`: workers that share a remote store
    fetch it from the Hub once, under a download lease."""

    file: RepositoryFile
    expected: Expected
    origin: Origin
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Acquired:
    """One file on the volume. `origin` is where it came from in the end; `transferred_bytes` came over the network in
    this run, 0 when it was there.

    `weights` are the findings on a GGUF's weights, from the pass that hashed it: empty for a file that is no GGUF, or
    that a published snapshot vouches for. None: the weights were not scanned yet.
    """

    file: SnapshotFile
    origin: Origin
    transferred_bytes: int
    weights: tuple[Finding, ...] | None = ()
