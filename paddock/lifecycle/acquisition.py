"""Bringing the chosen files of one revision onto the volume, and making them a snapshot.

The steps are separate, because a flow runs each as a task: `plan` says where each file will come from and needs nothing
but answers to cheap questions; `delivery.acquire_file` brings one file as a verified blob; `publish` makes the snapshot
visible, audited, with its manifest written last. Whatever dies in between leaves blobs and partials that the next run
takes up.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from paddock.chat.template import CHAT_FILE, DERIVED, TEMPLATE_FILE
from paddock.engine.facts import engine_version
from paddock.errors import BlobMissing, CorruptFile, NotOnVolume, SnapshotDiffers
from paddock.lifecycle import delivery
from paddock.lifecycle.auditing import Audited, require_accepted
from paddock.lifecycle.delivery import Acquired, Row
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Listing, Manifest, RepositoryFile, SnapshotFile, recorded
from paddock.model.quantization import is_gguf
from paddock.model.reference import SnapshotId
from paddock.model.source import Expected
from paddock.planning.choice import Choice
from paddock.store import repair
from paddock.store.s3 import S3Store
from paddock.store.volume import Volume
from paddock.transfer.digest import verify_file
from paddock.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of an acquisition of the snapshot `id`. `fetch_bytes` comes over the network, `need_bytes` is the room
    that it takes on the volume."""

    id: SnapshotId
    listing: Listing
    choice: Choice
    rows: tuple[Row, ...]
    need_bytes: int

    @property
    def fetch_bytes(self) -> int:
        return sum(row.file.size for row in self.rows if row.origin != "volume")


@dataclass(frozen=True, slots=True)
class Published:
    """A visible snapshot, and what came over the network for it in this run."""

    manifest: Manifest
    transferred_bytes: int


def plan(parts: Parts, listing: Listing, choice: Choice) -> Plan:
    """Say for each chosen file whether the volume has it, or S3, or the Hub must send it. Changes nothing.

    A small file has no sha256 on the Hub; it is known by what an earlier snapshot of the same commit says of it. A
    damaged manifest says nothing: a new one takes its place when the snapshot is published. A snapshot that is there
    keeps the files that it was published with. S3 is asked for what the volume lacks, and for nothing else: what is
    there needs no S3. Raises SnapshotDiffers for a snapshot of that name with other model files, StoreUnavailable and
    StoreRefused.
    """
    id = SnapshotId(listing.model, listing.revision, choice.variant)
    files = _files_of(parts, id, choice)
    known = _known(parts.volume, id)
    rows = tuple(_row(parts.volume, None, file, known.get(file.path)) for file in files)
    if parts.s3 is not None and any(row.origin != "volume" for row in rows):
        known = _known(parts.s3, id) | known
        rows = tuple(_row(parts.volume, parts.s3, file, known.get(file.path)) for file in files)
    return Plan(id, listing, choice, rows, need_bytes(parts, rows))


def need_bytes(parts: Parts, rows: Sequence[Row]) -> int:
    """The room on the volume that these files take, beside what is there of them."""
    return sum(max(0, row.file.size - _staged_bytes(parts, row.expected)) for row in rows if row.origin != "volume")


def _files_of(parts: Parts, id: SnapshotId, choice: Choice) -> tuple[RepositoryFile, ...]:
    """The chosen files, or those of them that the snapshot has which is there."""
    try:
        there = parts.volume.snapshot(id)
    except CorruptFile:  # it is replaced
        return choice.files
    if there is None:
        return choice.files
    published = {file.path for file in there.files} - DERIVED
    chosen = {file.path for file in choice.files} - DERIVED
    model_files = {path for one in choice.sets for path in one.paths}
    if {path for path in published if is_gguf(path)} != model_files or not published <= chosen:
        raise SnapshotDiffers(
            f"{id} is on {parts.volume.label} with other files than are chosen now, and a snapshot is never replaced",
            cure=f"remove it with `paddock rm {id}`, then pull it again",
        )
    return tuple(file for file in choice.files if file.path in published)


def _known(store: Volume | S3Store, id: SnapshotId) -> dict[str, SnapshotFile]:
    """The files of the same commit, as the snapshots in the store say; that of the same variant counts most."""
    known: dict[str, SnapshotFile] = {}
    same_commit = [one for one in store.ids(id.model) if one.revision == id.revision]
    for one in sorted(same_commit, key=lambda one: one == id):
        try:
            manifest = store.snapshot(one)
        except CorruptFile as error:
            log.warning("%s; it counts as absent", error.message)
            continue
        known |= {file.path: file for file in manifest.files} if manifest is not None else {}
    return known


def _row(volume: Volume, s3: S3Store | None, file: RepositoryFile, known: SnapshotFile | None) -> Row:
    digest = file.sha256 or (known.sha256 if known is not None and known.size == file.size else None)
    expected = Expected(file.size, digest, file.git_sha1)
    if digest is None:
        return Row(file, expected, "hub")
    if volume.has_blob(digest, file.size):
        return Row(file, expected, "volume")
    return Row(file, expected, *delivery.beyond_volume(s3, digest, file.size))


def _staged_bytes(parts: Parts, expected: Expected) -> int:
    """Bytes that an earlier run's partial of the same file already takes on the disk: its data, and what another engine
    left beside that."""
    if expected.key is None:
        return 0
    held = 0
    for directory in (parts.volume.partial / expected.key).glob("*"):
        there = 0
        for path in directory.rglob("*"):
            with suppress(OSError):  # another process took it over just now, which renames its directory
                there += path.stat().st_blocks * 512
        held = max(held, there)
    return min(expected.size, held)


def publish(parts: Parts, drawn: Plan, acquired: Sequence[Acquired], *, audited: Audited) -> Published:
    """Make the snapshot visible: the acquired files, the chat template that goes with them and what the engine needs
    beside it, and the manifest.

    A snapshot that is there stays as it was published, with its verdict and its template; only links to blobs that were
    repaired are made anew. Raises ModelRejected when the audit rejects the model, whose blobs stay until the volume is
    cleaned, and SnapshotDiffers.
    """
    audit, model, listing, choice = audited.audit, audited.audit.model, drawn.listing, drawn.choice
    require_accepted(drawn.id.short, audit.verdict, audit.findings)
    # The repository's own template was one to choose from.
    fetched = [one.file for one in acquired if one.file.path not in DERIVED]
    transferred_bytes = sum(one.transferred_bytes for one in acquired)
    there = _published_with(parts, drawn.id, fetched)
    if there is not None:
        for file, text in _derived_texts(audited).items():
            _repair_derived(parts, there, file, text)
        parts.volume.publish(there)
        return Published(there, transferred_bytes)
    derived = tuple(_derived(parts, path, text) for path, text in _derived_texts(audited).items())
    manifest = Manifest(
        repository=str(listing.model),
        revision=listing.revision,
        variant=drawn.id.variant,
        files=tuple(sorted([*derived, *fetched], key=lambda file: file.path)),
        segment_bytes=parts.settings.segment_bytes,
        quantization=(model.quantization if model else None) or choice.quantization,
        split=len(choice.model_files),
        licence=listing.licence or audit.licence,
        created_at=datetime.now(UTC),
        verdict=audit.verdict,
        findings=recorded(audit.findings),
        template_sha256=next(file.sha256 for file in derived if file.path == TEMPLATE_FILE),
        paddock_version=VERSION,
        engine_version=engine_version(),
    )
    parts.volume.publish(manifest)
    return Published(parts.volume.snapshot(drawn.id) or manifest, transferred_bytes)


def _published_with(parts: Parts, id: SnapshotId, fetched: Sequence[SnapshotFile]) -> Manifest | None:
    """The snapshot that was published with these very files, if there is one."""
    try:
        there = parts.volume.snapshot(id)
    except CorruptFile:
        return None
    own = {(file.path, file.sha256) for file in there.files if file.path not in DERIVED} if there else set()
    return there if own == {(file.path, file.sha256) for file in fetched} else None


def _derived_texts(audited: Audited) -> dict[str, str]:
    return {TEMPLATE_FILE: audited.chat.template, CHAT_FILE: audited.chat.to_json()}


def _repair_derived(parts: Parts, there: Manifest, path: str, text: str) -> None:
    """Make a derived file of a snapshot anew where its blob is damaged or gone."""
    file = next((one for one in there.files if one.path == path), None)
    if file is None or _is_whole(parts, file):
        return
    if _derived(parts, path, text).sha256 != file.sha256:
        raise CorruptFile(
            f"{path} of {there.id.short} is damaged on {parts.volume.label}, and this Paddock would write another one",
            cure=f"remove it with `paddock rm {there.id}`, then pull it again",
        )


def _derived(parts: Parts, path: str, text: str) -> SnapshotFile:
    """A file that is made here, as a blob of the volume."""
    content = text.encode(errors="surrogatepass")
    digest = parts.volume.add_bytes(content)
    described = SnapshotFile(path=path, size=len(content), sha256=digest)
    if not _is_whole(parts, described):  # one that rotted on the disk is made anew
        with suppress(NotOnVolume):
            parts.volume.quarantine(digest)
        parts.volume.add_bytes(content)
    repair.finish(parts.volume, digest)
    expected = Expected(len(content), digest)
    _, segments = verify_file(parts.volume.blob_path(digest), expected, parts.settings.segment_bytes)
    return described.model_copy(update={"segments": segments})


def _is_whole(parts: Parts, file: SnapshotFile) -> bool:
    """Whether the small blob of a file is there, with its bytes; it is safe from being collected then."""
    try:
        parts.volume.renew_blob(file.sha256)
        verify_file(parts.volume.blob_path(file.sha256), Expected(file.size, file.sha256), parts.settings.segment_bytes)
    except (BlobMissing, CorruptFile):
        return False
    return True
