"""Publish an acquired snapshot: write its derived files, then its manifest.

The derived files are made here, from the audit: the chat template, and its stop sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from paddock.chat.template import CHAT_FILE, DERIVED_FILES, TEMPLATE_FILE
from paddock.engine.facts import engine_version
from paddock.errors import BlobMissing, CorruptFile, NotOnVolume
from paddock.lifecycle.acquire.plan import AcquisitionPlan
from paddock.lifecycle.assess.audit import Audited, require_accepted
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import refresh_dossier
from paddock.lifecycle.eviction.evicted import EvictionRow
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.acquired import Acquired
from paddock.model.artifact import MAX_TEXT, Manifest, SnapshotFile, record_findings
from paddock.model.names import SegmentDigest
from paddock.model.reference import SnapshotId
from paddock.model.source import Expected
from paddock.model.units import human_bytes
from paddock.store import repair
from paddock.transfer.digest import verify_file
from paddock.version import VERSION


@dataclass(frozen=True, slots=True)
class Published:
    """A published snapshot, its files as they were acquired in this run, `notes` on deviations from the request, and
    the snapshots that were evicted to make room for it."""

    manifest: Manifest
    acquired: tuple[Acquired, ...]
    notes: tuple[str, ...] = ()
    evicted: tuple[EvictionRow, ...] = ()

    @property
    def transferred_bytes(self) -> int:
        """Bytes that came over the network in this run."""
        return sum(item.transferred_bytes for item in self.acquired)

    def to_json(self) -> dict[str, Any]:
        return {
            "revision": self.manifest.revision,
            "variant": self.manifest.variant,
            "quantization": self.manifest.quantization,
            "files": [
                {"path": item.file.path, "size": item.file.size, "sha256": item.file.sha256, "source": item.origin}
                for item in self.acquired
            ],
            "bytes_transferred": self.transferred_bytes,
            "evicted": [row.to_json() for row in self.evicted],
        }

    @property
    def line(self) -> str:
        return f"published {self.manifest.id}: {human_bytes(self.transferred_bytes)} fetched"


@step(Kind.LOCAL, "publish", line=lambda published: published.line)
def publish(
    clients: Clients,
    plan: AcquisitionPlan,
    acquired: Sequence[Acquired],
    audited: Audited,
    *,
    notes: tuple[str, ...] = (),
) -> Published:
    """Make the snapshot visible: link the acquired files, write the chat template and its settings, and then the
    manifest.

    A snapshot that was published before keeps its verdict and its template; only the links to repaired blobs are
    replaced. Raises SnapshotDiffers, and ModelRejected when the audit rejects the model; its blobs stay until the
    volume is cleaned.
    """
    return publish_audited(clients, plan, acquired, audited, notes=notes)


def publish_audited(
    clients: Clients,
    plan: AcquisitionPlan,
    acquired: Sequence[Acquired],
    audited: Audited,
    *,
    notes: tuple[str, ...] = (),
    created_at: datetime | None = None,
) -> Published:
    """As `publish`. `created_at` is the time of the first publication in any store, by default now."""
    audit, model, listing, choice = audited.audit, audited.audit.model, plan.listing, plan.choice
    require_accepted(plan.id.short, audit.verdict, audit.findings)
    # The repository's own template file was fetched for the audit, which may have chosen another.
    fetched = [item.file for item in acquired if item.file.path not in DERIVED_FILES]
    existing = _published_with(clients, plan.id, fetched)
    if existing is not None:
        for file, text in _derived_texts(audited).items():
            _repair_derived(clients, existing, file, text)
        clients.volume.publish(existing)
        refresh_dossier(clients, existing)  # what was damaged is whole again
        return Published(existing, tuple(acquired), notes, plan.evicted)
    derived = tuple(_derived(clients, path, text) for path, text in _derived_texts(audited).items())
    manifest = Manifest(
        repository=str(listing.model),
        revision=listing.revision,
        variant=plan.id.variant,
        files=tuple(sorted([*derived, *fetched], key=lambda file: file.path)),
        segment_bytes=clients.settings.segment_bytes,
        quantization=(model.quantization if model else None) or choice.quantization,
        split=len(choice.model_files),
        licence=(listing.licence or audit.licence or "")[:MAX_TEXT] or None,
        created_at=created_at or datetime.now(UTC),
        verdict=audit.verdict,
        findings=record_findings(audit.findings),
        template_sha256=next((file.sha256 for file in derived if file.path == TEMPLATE_FILE), None),
        paddock_version=VERSION,
        engine_version=engine_version(),
    )
    clients.volume.publish(manifest)
    return Published(clients.volume.snapshot(plan.id) or manifest, tuple(acquired), notes, plan.evicted)


def _published_with(clients: Clients, id: SnapshotId, fetched: Sequence[SnapshotFile]) -> Manifest | None:
    """The snapshot that was published with these files, if there is one."""
    try:
        existing = clients.volume.snapshot(id)
    except CorruptFile:
        return None
    if existing is None:
        return None
    published = {(file.path, file.sha256) for file in existing.files if file.path not in DERIVED_FILES}
    return existing if published == {(file.path, file.sha256) for file in fetched} else None


def _derived_texts(audited: Audited) -> dict[str, str]:
    chat = audited.chat
    return {TEMPLATE_FILE: chat.template, CHAT_FILE: chat.to_json()} if chat else {}


def _repair_derived(clients: Clients, manifest: Manifest, path: str, text: str) -> None:
    """Write a derived file of a snapshot again if its blob is damaged or missing."""
    file = next((file for file in manifest.files if file.path == path), None)
    if file is None or _is_whole(clients, file):
        return
    if _derived(clients, path, text).sha256 != file.sha256:
        raise CorruptFile(
            f"{path} of {manifest.id.short} is damaged on {clients.volume.label}, and this version of Paddock"
            " would write another one",
            cure=f"remove it with `paddock rm {manifest.id}`, then pull it again",
        )


def _derived(clients: Clients, path: str, text: str) -> SnapshotFile:
    """Store a derived file as a blob of the volume."""
    content = text.encode(errors="surrogatepass")
    digest = clients.volume.add_bytes(content)
    described = SnapshotFile(path=path, size=len(content), sha256=digest)
    if not _is_whole(clients, described):  # `add_bytes` keeps an existing blob, even a damaged one
        with suppress(NotOnVolume):
            clients.volume.quarantine(digest)
        clients.volume.add_bytes(content)
    repair.finish(clients.volume, digest)
    return replace(described, segments=_segments(clients, described))


def _is_whole(clients: Clients, file: SnapshotFile) -> bool:
    """Whether the blob of a small file exists with the right digest. Its age is reset, so that it is not collected."""
    try:
        clients.volume.renew_blob(file.sha256)
        _segments(clients, file)
    except (BlobMissing, CorruptFile):
        return False
    return True


def _segments(clients: Clients, file: SnapshotFile) -> tuple[SegmentDigest, ...]:
    """Verify the blob of a file, and return its segment digests."""
    with clients.volume.reading_blob(file.sha256) as path:
        return verify_file(path, Expected(file.size, file.sha256), clients.settings.segment_bytes)[1]
