"""Value types for the files of an acquisition: planned, and acquired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paddock.model.artifact import RepositoryFile, SnapshotFile
from paddock.model.finding import Finding
from paddock.model.source import Expected

Origin = Literal["hub", "s3", "volume"]
"""Where a file comes from. `s3` stands for any remote store; JSON documents and artifacts contain it."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of an acquisition plan: its expected content and its origin. `leased`: of the workers that share a
    remote store, only one downloads it from the Hub, under a download lease."""

    file: RepositoryFile
    expected: Expected
    origin: Origin
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Acquired:
    """One acquired file, which is on the volume.

    `origin` is its actual origin. `transferred_bytes` came over the network in this run; 0 if the file was on the
    volume. `weights` are the findings on a GGUF's weights, from the same pass that computed its digest: empty for other
    files and for files of a published snapshot, None if the weights were not scanned yet.
    """

    file: SnapshotFile
    origin: Origin
    transferred_bytes: int
    weights: tuple[Finding, ...] | None = ()
