"""Scrub a store: read all stored bytes again, those first whose last verification is oldest, and repair damage.

A scrub that is killed, or ends with its time, goes on where it was: the blobs that it has read have a record that is
younger than its begin, and of the blob that it was in it knows the next segment. Once everything was read, the next
scrub begins anew.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.lifecycle.upkeep.last_runs import ScrubRecord, store_scrub
from paddock.lifecycle.upkeep.verify import (
    VerifiedFile,
    Verifier,
    VolumeVerifier,
    check_manifests,
    count_damaged,
    is_derived,
)
from paddock.lifecycle.upkeep.verify_remote import RemoteVerifier
from paddock.model.units import human_bytes
from paddock.store.blob_check import OutOfTime, Pace, Start
from paddock.store.named_blobs import NamedBlob
from paddock.store.volume.layout import ON_VOLUME
from paddock.store.volume.verifications import ScrubProgress

_SAVE_EVERY_S = 3.0
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """The result of a scrub of the store `where`. `damaged` are the files that were found damaged, whether they were
    repaired (`ok`) or not; `complete` if nothing is left to read; `blobs` are all that the store has."""

    where: str
    blobs: int
    checked_blobs: int
    checked_bytes: int
    damaged: tuple[VerifiedFile, ...]
    problems: tuple[str, ...]
    complete: bool
    seconds: float

    @property
    def ok(self) -> bool:
        return all(file.ok for file in self.damaged) and not self.problems

    @property
    def repaired_bytes(self) -> int:
        return sum(file.repaired_bytes for file in self.damaged)

    @property
    def line(self) -> str:
        blobs = len({file.sha256 for file in self.damaged})
        left = len({file.sha256 for file in self.damaged if not file.ok})
        found = f"{blobs} damaged, {left} of them still" if blobs else "none damaged"
        rest = "" if self.complete else "; the rest is read by the next scrub"
        read = f"{self.checked_blobs} of {self.blobs} blobs, {human_bytes(self.checked_bytes)}"
        return f"{self.where}: {read} read in {self.seconds:.0f} s, {found}{rest}"

    def to_json(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "blobs": self.blobs,
            "checked_blobs": self.checked_blobs,
            "checked_bytes": self.checked_bytes,
            "damaged": [file.to_json() for file in self.damaged],
            "problems": list(self.problems),
            "complete": self.complete,
            "repaired_bytes": self.repaired_bytes,
            "seconds": round(self.seconds, 3),
        }


def _line(scrubbed: Scrubbed | None) -> str:
    return scrubbed.line if scrubbed else "no remote store is set"


def _problems(scrubbed: Scrubbed | None) -> tuple[str, ...]:
    return scrubbed.problems if scrubbed else ()


@step(Kind.LOCAL, "scrub", line=_line, warnings=_problems)
def scrub(
    clients: Clients,
    *,
    repair: bool = True,
    limit_bytes_per_s: int | None = None,
    max_seconds: float | None = None,
) -> Scrubbed:
    """Read every blob of the volume's snapshots; with `repair`, repair what is damaged.

    At most `limit_bytes_per_s`, and for `max_seconds`: None is without a limit. What could not be repaired is in
    `problems`, and not raised.
    """
    _, problems = check_manifests(clients, repair_damage=repair)
    pace = Pace(limit_bytes_per_s=limit_bytes_per_s, max_seconds=max_seconds)
    scrubbed = scrub_with(clients, VolumeVerifier(clients, repair_damage=repair), pace)
    return replace(scrubbed, problems=(*problems, *scrubbed.problems))


@step(Kind.STORE, "scrub-remote", line=_line, warnings=_problems)
def scrub_remote(
    clients: Clients,
    *,
    repair: bool = True,
    limit_bytes_per_s: int | None = None,
    max_seconds: float | None = None,
) -> Scrubbed | None:
    """As `scrub`, for the objects of the remote store; None where none is set. Raises StoreUnavailable, StoreRefused
    for a store that does not list its snapshots."""
    if clients.remote is None:
        return None
    pace = Pace(limit_bytes_per_s=limit_bytes_per_s, max_seconds=max_seconds)
    return scrub_with(clients, RemoteVerifier(clients, repair_damage=repair), pace)


def scrub_with(clients: Clients, verifier: Verifier, pace: Pace) -> Scrubbed:
    """Scrub one store."""
    started = time.monotonic()
    blobs = verifier.blobs()
    progress = _Progress(clients, verifier)
    checked, complete = 0, True
    damaged: list[VerifiedFile] = []
    problems: list[str] = []
    try:
        for blob in progress.due(list(blobs.values())):
            pace.check()
            verified = verifier.verify(blob, pace, progress.start(blob))
            checked += 1
            damaged += [file for file in verified.files if file.damage]
            problems += verified.problems
    except OutOfTime:
        complete = False
    progress.end(is_complete=complete)
    seconds = time.monotonic() - started
    found, repaired = count_damaged(damaged)
    record = ScrubRecord(pace.read_bytes, round(seconds, 3), found, repaired, complete)
    store_scrub(clients, "volume" if verifier.where == ON_VOLUME else "s3", record)
    return Scrubbed(
        where=verifier.label,
        blobs=len(blobs),
        checked_blobs=checked,
        checked_bytes=pace.read_bytes,
        damaged=tuple(damaged),
        problems=tuple(dict.fromkeys(problems)),
        complete=complete,
        seconds=seconds,
    )


class _Progress:
    """How far a scrub came, in memory and, where that can be written, on the volume."""

    def __init__(self, clients: Clients, verifier: Verifier) -> None:
        self._volume = clients.volume
        self._verifier = verifier
        found = clients.volume.verifications.progress(verifier.where)
        self._state = found or ScrubProgress(datetime.now(UTC))
        self._saved_at = time.monotonic()
        self._save()

    def due(self, blobs: list[NamedBlob]) -> list[NamedBlob]:
        """The blobs that this scrub has not read: first the one that an earlier process was in, then by their last
        verification. Derived files are last, since they are repaired from the others."""
        last = {blob.sha256: self._verifier.last_verified(blob) or _LONG_AGO for blob in blobs}
        due = [blob for blob in blobs if last[blob.sha256] < self._state.began]
        return sorted(due, key=lambda blob: (is_derived(blob), blob.sha256 != self._state.sha256, last[blob.sha256]))

    def start(self, blob: NamedBlob) -> Start:
        """Where to begin with a blob: behind what an earlier process has read of the same file."""
        identity = ""
        with suppress(PaddockError):  # the verification reports it
            identity = self._verifier.identity(blob)
        state = self._state
        is_same = identity and (state.sha256, state.identity) == (blob.sha256, identity)
        segment, bad = (state.segment, state.bad) if is_same else (0, ())
        self._state = ScrubProgress(state.began, blob.sha256, identity, segment, bad)
        return Start(segment, bad, self._on_segment)

    def end(self, *, is_complete: bool) -> None:
        if not is_complete:
            self._save()
            return
        with self._volume.recording():
            self._volume.verifications.end_progress(self._verifier.where)

    def _on_segment(self, segment: int, bad: tuple[int, ...]) -> None:
        self._state = replace(self._state, segment=segment, bad=bad)
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self._save()

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self._volume.exists:
            with self._volume.recording():
                self._volume.verifications.save_progress(self._state, self._verifier.where)
