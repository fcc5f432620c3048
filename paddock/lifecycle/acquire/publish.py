"""Publish an acquired snapshot: its derived files, then its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from paddock.chat.template import CHAT_FILE, DERIVED, TEMPLATE_FILE
from paddock.engine.facts import engine_version
from paddock.errors import BlobMissing, CorruptFile, NotOnVolume
from paddock.lifecycle.acquire.plan import AcquisitionPlan
from paddock.lifecycle.assess.audit import Audited, require_accepted
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.steps import Kind, step
from paddock.model.acquired import Acquired
from paddock.model.artifact import Manifest, SnapshotFile, record_findings
from paddock.model.reference import SnapshotId
from paddock.model.source import Expected
from paddock.model.units import human_bytes
from paddock.store import repair
from paddock.transfer.digest import verify_file
from paddock.version import VERSION


@dataclass(frozen=True, slots=True)
class Published:
    """A visible snapshot, its files as they were acquired in this run, and `notes` on what is not as requested."""

    manifest: Manifest
    acquired: tuple[Acquired, ...]
    notes: tuple[str, ...] = ()

    @property
    def transferred_bytes(self) -> int:
        """Bytes that came over the network in this run."""
        return sum(one.transferred_bytes for one in self.acquired)

    def to_json(self) -> dict[str, Any]:
        return {
            "revision": self.manifest.revision,
            "variant": self.manifest.variant,
            "quantization": self.manifest.quantization,
            "files": [
                {"path": one.file.path, "size": one.file.size, "sha256": one.file.sha256, "source": one.origin}
                for one in self.acquired
            ],
            "bytes_transferred": self.transferred_bytes,
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
    """Make the snapshot visible: the acquired files, the chat template that goes with them and what the engine needs
    beside it, and the manifest.

    A snapshot that is there stays as it was published, with its verdict and its template; only links to blobs that were
    repaired are made anew. Raises ModelRejected when the audit rejects the model, whose blobs stay until the volume is
    cleaned, and SnapshotDiffers.
    """
    audit, model, listing, choice = audited.audit, audited.audit.model, plan.listing, plan.choice
    require_accepted(plan.id.short, audit.verdict, audit.findings)
    # The repository's own template was one to choose from.
    fetched = [one.file for one in acquired if one.file.path not in DERIVED]
    there = _published_with(clients, plan.id, fetched)
    if there is not None:
        for file, text in _derived_texts(audited).items():
            _repair_derived(clients, there, file, text)
        clients.volume.publish(there)
        return Published(there, tuple(acquired), notes)
    derived = tuple(_derived(clients, path, text) for path, text in _derived_texts(audited).items())
    manifest = Manifest(
        repository=str(listing.model),
        revision=listing.revision,
        variant=plan.id.variant,
        files=tuple(sorted([*derived, *fetched], key=lambda file: file.path)),
        segment_bytes=clients.settings.segment_bytes,
        quantization=(model.quantization if model else None) or choice.quantization,
        split=len(choice.model_files),
        licence=listing.licence or audit.licence,
        created_at=datetime.now(UTC),
        verdict=audit.verdict,
        findings=record_findings(audit.findings),
        template_sha256=next(file.sha256 for file in derived if file.path == TEMPLATE_FILE),
        paddock_version=VERSION,
        engine_version=engine_version(),
    )
    clients.volume.publish(manifest)
    return Published(clients.volume.snapshot(plan.id) or manifest, tuple(acquired), notes)


def _published_with(clients: Clients, id: SnapshotId, fetched: Sequence[SnapshotFile]) -> Manifest | None:
    """The snapshot that was published with these very files, if there is one."""
    try:
        there = clients.volume.snapshot(id)
    except CorruptFile:
        return None
    own = {(file.path, file.sha256) for file in there.files if file.path not in DERIVED} if there else set()
    return there if own == {(file.path, file.sha256) for file in fetched} else None


def _derived_texts(audited: Audited) -> dict[str, str]:
    return {TEMPLATE_FILE: audited.chat.template, CHAT_FILE: audited.chat.to_json()}


def _repair_derived(clients: Clients, there: Manifest, path: str, text: str) -> None:
    """Make a derived file of a snapshot anew where its blob is damaged or gone."""
    file = next((one for one in there.files if one.path == path), None)
    if file is None or _is_whole(clients, file):
        return
    if _derived(clients, path, text).sha256 != file.sha256:
        raise CorruptFile(
            f"{path} of {there.id.short} is damaged on {clients.volume.label}, and this version of Paddock"
            " would write another one",
            cure=f"remove it with `paddock rm {there.id}`, then pull it again",
        )


def _derived(clients: Clients, path: str, text: str) -> SnapshotFile:
    """A file that is made here, as a blob of the volume."""
    content = text.encode(errors="surrogatepass")
    digest = clients.volume.add_bytes(content)
    described = SnapshotFile(path=path, size=len(content), sha256=digest)
    if not _is_whole(clients, described):  # one that rotted on the disk is made anew
        with suppress(NotOnVolume):
            clients.volume.quarantine(digest)
        clients.volume.add_bytes(content)
    repair.finish(clients.volume, digest)
    expected = Expected(len(content), digest)
    _, segments = verify_file(clients.volume.blob_path(digest), expected, clients.settings.segment_bytes)
    return described.model_copy(update={"segments": segments})


def _is_whole(clients: Clients, file: SnapshotFile) -> bool:
    """Whether the small blob of a file is there, with its bytes; it is safe from being collected then."""
    try:
        clients.volume.renew_blob(file.sha256)
        verify_file(
            clients.volume.blob_path(file.sha256), Expected(file.size, file.sha256), clients.settings.segment_bytes
        )
    except (BlobMissing, CorruptFile):
        return False
    return True
