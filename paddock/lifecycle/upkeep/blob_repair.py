"""Repair one blob of the volume: fetch its damaged segments, and link it into every snapshot that names it.

    1. a snapshot's file that still has the blob's bytes becomes the blob again
    2. the remote store: only what is damaged is fetched, all else is taken from the damaged copy
    3. a file that Paddock derived (chat template, stop sequences) is derived again
    4. the Hub, at each revision that has the file, as the remote store

A snapshot needs no listing of its revision for that, so that it is repaired also where the Hub has forgotten it. Files
that are open or mapped are never written: the repaired blob is a new file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256 as sha256_of
from pathlib import Path

from paddock.chat.template import DERIVED_FILES, choose_chat_format
from paddock.errors import BlobMissing, CorruptFile, NoPermission, NotEnoughDisk, PaddockError, TransientError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.counts import counting_received
from paddock.lifecycle.stored_listing import hub_is_out
from paddock.model.artifact import RepositoryFile
from paddock.model.source import Expected, Source
from paddock.store import repair
from paddock.store.named_blobs import NamedBlob
from paddock.store.protocol import RemoteStore
from paddock.transfer.fetch import Staged, fetch
from paddock.transfer.options import Options

log = logging.getLogger(__name__)
_REMOTE_SPAN_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BlobRepair:
    """A repair: `transferred_bytes` were fetched from `origin` ("volume": nothing had to be fetched)."""

    transferred_bytes: int
    origin: str


class BlobRepairs:
    """Repairs of blobs. A store that did not answer for one blob is not asked for the next: each time costs seconds."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._silent: dict[str, str] = {}

    def repair(self, blob: NamedBlob, *, sound_copy: Path | None = None) -> BlobRepair:
        """Make a blob sound that is damaged or missing, and link it into each snapshot that names it.

        `sound_copy` is a file of a snapshot whose bytes were verified. Raises NotEnoughDisk, NoPermission, and
        CorruptFile with what each source answered where none has the bytes: then the damaged copy is kept for the next
        attempt.
        """
        volume = self._clients.volume
        volume.disk.prepare()
        done = BlobRepair(0, "volume")
        if not volume.has_blob(blob.sha256, blob.size):  # else another process repaired it, or only a link is wrong
            if sound_copy is not None:
                volume.add_link(sound_copy, blob.sha256, blob.size)
            else:
                done = self._fetch_onto_volume(blob)
        relink(self._clients, blob)
        volume.drop_quarantined(blob.sha256)
        return done

    def fetch_from_hub(self, blob: NamedBlob) -> Staged | None:
        """Fetch a blob from the Hub into the volume's staging directory, verified, and not yet a blob. None where
        another process added it meanwhile. Raises as `repair`."""
        attempts = _Attempts(self._clients, blob, self._silent)
        staged = attempts.from_hub()
        if staged is None and not self._clients.volume.has_blob(blob.sha256, blob.size):
            raise attempts.error()
        return staged

    def _fetch_onto_volume(self, blob: NamedBlob) -> BlobRepair:
        volume = self._clients.volume
        volume.disk.require(blob.size, files=1)
        attempts = _Attempts(self._clients, blob, self._silent)
        for origin, attempt in (("s3", attempts.from_remote), ("volume", lambda: None), ("hub", attempts.from_hub)):
            staged = attempt()
            if staged is not None:
                volume.add_blob(staged.path, staged.sha256, staged.size)
                staged.discard()
                return BlobRepair(staged.transferred_bytes, origin)
            if volume.has_blob(blob.sha256, blob.size) or _derive_again(self._clients, blob):
                return BlobRepair(0, "volume")
        raise attempts.error()


def relink(clients: Clients, blob: NamedBlob) -> None:
    """Link a sound blob into each snapshot that names it. One that lacks another blob too is left to the repair of
    that one."""
    for id, manifest in {manifest.id: manifest for manifest, _ in blob.uses}.items():
        try:
            if clients.volume.snapshot(id) is not None:  # else it was removed meanwhile
                clients.volume.publish(manifest)
        except BlobMissing as error:
            log.info("%s", error.message)


class _Attempts:
    """Attempts to fetch one blob, from one source after the other. `silent` has why a store is not asked."""

    def __init__(self, clients: Clients, blob: NamedBlob, silent: dict[str, str]) -> None:
        self._clients = clients
        self._blob = blob
        self._silent = silent
        self._failures: list[str] = []
        self._is_seeded = False

    def error(self) -> CorruptFile:
        """The error for a blob that no source has, with what each of them answered."""
        reasons = "; ".join(dict.fromkeys(self._failures)) or "no store has it"
        return CorruptFile(
            f"{self._blob.path} of {self._blob.uses[0][0].id.short} cannot be repaired now: {reasons}",
            cure="run the same command again once S3 or the Hub has the file and answers",
        )

    def from_remote(self) -> Staged | None:
        remote, blob = self._clients.remote, self._blob
        if remote is None:
            return None

        def fetch_from(remote: RemoteStore) -> Staged | None:
            if remote.has_blob(blob.sha256, blob.size):
                return self._fetch(remote.source(blob.file, model=blob.uses[0][0].model), near=True)
            self._failures.append(f"{remote.label} does not have it")
            return None

        return self._try(remote.label, lambda: fetch_from(remote))

    def from_hub(self) -> Staged | None:
        for source in _hub_sources(self._clients, self._blob):
            staged = self._try("the Hub", lambda source=source: self._fetch(source, near=False))  # type: ignore[misc]
            if staged is not None or "the Hub" in self._silent:
                return staged
        return None

    def _try(self, store: str, attempt: Callable[[], Staged | None]) -> Staged | None:
        if store in self._silent:
            self._failures.append(self._silent[store])
            return None
        try:
            return attempt()
        except (NotEnoughDisk, NoPermission):
            raise
        except PaddockError as error:
            self._failures.append(error.message)
            if isinstance(error, TransientError) or hub_is_out(self._clients, error):
                self._silent[store] = error.message
            return None

    def _fetch(self, source: Source, *, near: bool) -> Staged | None:
        """Fetch the blob from one source. None where another process added it meanwhile."""
        volume, blob = self._clients.volume, self._blob
        expected = Expected(blob.size, blob.sha256)
        if not self._is_seeded:
            repair.seed_with(volume, expected, blob.segments, segment_bytes=blob.segment_bytes)
        self._is_seeded = True  # an attempt that is interrupted keeps its bytes for the next
        options = replace(
            Options.of(self._clients.settings),
            segment_bytes=blob.segment_bytes,
            backend="paddock",
            span_bytes=_REMOTE_SPAN_BYTES if near else None,
        )
        try:
            with counting_received(self._clients, "s3" if near else "hub") as on_progress:
                return fetch(
                    source,
                    staging=volume.partial,
                    options=options,
                    on_progress=on_progress,
                    is_published=lambda: volume.has_blob(blob.sha256, blob.size),
                )
        except CorruptFile:  # which kept nothing
            self._is_seeded = False
            raise


def _hub_sources(clients: Clients, blob: NamedBlob) -> Iterator[Source]:
    """The files on the Hub that may have a blob's bytes."""
    places = {(manifest.model, manifest.revision, file.path): file for manifest, file in blob.uses}
    for (model, revision, path), file in places.items():
        yield clients.hub.file(model, revision, RepositoryFile(path, file.size, file.sha256, None))


def _derive_again(clients: Clients, blob: NamedBlob) -> bool:
    """Write a file again that Paddock derived from the model. False for other files, and where this version of Paddock
    would write another one."""
    for manifest, file in blob.uses:
        if file.path not in DERIVED_FILES:
            continue
        try:
            chat = choose_chat_format(clients.volume.snapshot_path(manifest.id), manifest.repository)
        except (PaddockError, OSError) as error:
            log.info("%s of %s cannot be derived again: %s", file.path, manifest.id.short, error)
            continue
        for text in (chat.template, chat.to_json()):
            content = text.encode(errors="surrogatepass")
            if sha256_of(content).hexdigest() == blob.sha256:
                clients.volume.add_bytes(content)
                return True
    return False
