"""Bringing the chosen files of one revision onto the volume, and making them a snapshot.

The steps are separate, because a flow runs each as a task: `plan` says where each file will come from and needs nothing
but answers to cheap questions; `delivery.acquire_file` brings one file as a verified blob; `publish` makes the snapshot
visible, audited, with its manifest written last. Whatever dies in between leaves blobs and partials that the next run
takes up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from paddock.chat.template import CHAT_FILE, DERIVED, TEMPLATE_FILE
from paddock.engine.facts import engine_version
from paddock.errors import BlobMissing, CorruptFile, InUse
from paddock.lifecycle import fleet
from paddock.lifecycle.auditing import Audited, require_accepted
from paddock.lifecycle.delivery import Acquired, Row
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Listing, Manifest, RepositoryFile, SnapshotFile
from paddock.model.source import Expected
from paddock.planning.choice import Choice
from paddock.store.s3 import S3Store
from paddock.store.store import Store
from paddock.store.volume import Volume
from paddock.transfer.digest import verify_file
from paddock.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an acquisition will do. `fetch_bytes` comes over the network, `need_bytes` is the room that it takes on the
    volume."""

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
    damaged manifest says nothing: a new one takes its place when the snapshot is published. S3 is asked for what the
    volume lacks, and for nothing else: what is there needs no S3. Raises StoreUnavailable and StoreRefused.
    """
    known = _known(parts.volume, listing)
    rows = tuple(_row(parts.volume, None, file, known.get(file.path)) for file in choice.files)
    if parts.s3 is not None and any(row.origin != "volume" for row in rows):
        known = _known(parts.s3, listing) | known
        rows = tuple(_row(parts.volume, parts.s3, file, known.get(file.path)) for file in choice.files)
    return Plan(listing, choice, rows, need_bytes(parts, rows))


def need_bytes(parts: Parts, rows: Sequence[Row]) -> int:
    """The room on the volume that these files take, beside what is there of them."""
    return sum(max(0, row.file.size - _staged_bytes(parts, row.expected)) for row in rows if row.origin != "volume")


def _known(store: Store, listing: Listing) -> dict[str, SnapshotFile]:
    """The files of the same commit, as a snapshot in the store says."""
    try:
        manifest = store.snapshot(listing.model, listing.revision)
    except CorruptFile as error:
        log.warning("%s; it counts as absent", error.message)
        manifest = None
    return {file.path: file for file in manifest.files} if manifest is not None else {}


def _row(volume: Volume, s3: S3Store | None, file: RepositoryFile, known: SnapshotFile | None) -> Row:
    digest = file.sha256 or (known.sha256 if known is not None and known.size == file.size else None)
    expected = Expected(file.size, digest, file.git_sha1)
    if digest is None:
        return Row(file, expected, "hub")
    if volume.has_blob(digest, file.size):
        return Row(file, expected, "volume")
    if s3 is None:
        return Row(file, expected, "hub")
    shared = file.size >= fleet.WORTH_A_TURN_BYTES
    return Row(file, expected, "s3" if s3.has_blob(digest, file.size) else "hub", shared=shared)


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


def publish(
    parts: Parts,
    listing: Listing,
    choice: Choice,
    acquired: Sequence[Acquired],
    *,
    audited: Audited,
    replace_promoted: bool = False,
) -> Published:
    """Make the snapshot visible: the acquired files, the chat template that goes with them and what the engine needs
    beside it, and the manifest.

    Publishing the same files again changes nothing. A commit has one choice of files: another choice takes its place,
    and of the commit that is promoted only with `replace_promoted`, since it is what `/models/org--name` shows. Raises
    InUse otherwise, and ModelRejected when the audit rejects the model; its blobs stay until the volume is cleaned.
    """
    audit, model = audited.audit, audited.audit.model
    require_accepted(f"{listing.model}@{listing.revision[:8]}", audit.verdict, audit.findings)
    # The repository's own template was one to choose from.
    fetched = [one.file for one in acquired if one.file.path not in DERIVED]
    derived = _published_with(parts, listing, fetched) or (
        _derived(parts, TEMPLATE_FILE, audited.chat.template),
        _derived(parts, CHAT_FILE, audited.chat.to_json()),
    )
    manifest = Manifest(
        repository=str(listing.model),
        revision=listing.revision,
        files=tuple(sorted([*derived, *fetched], key=lambda file: file.path)),
        segment_bytes=parts.settings.segment_bytes,
        quantization=choice.quantization or (model.quantization if model else None),
        split=len(choice.model_files),
        licence=listing.licence or audit.licence,
        created_at=datetime.now(UTC),
        verdict=audit.verdict,
        template_sha256=next(file.sha256 for file in derived if file.path == TEMPLATE_FILE),
        paddock_version=VERSION,
        engine_version=engine_version(),
    )
    files = {(file.path, file.sha256) for file in manifest.files}
    _require_place(
        parts,
        listing,
        choice,
        same=lambda there: files == {(file.path, file.sha256) for file in there.files},
        replace_promoted=replace_promoted,
    )
    parts.volume.publish(manifest)
    return Published(
        parts.volume.snapshot(listing.model, listing.revision) or manifest,
        sum(one.transferred_bytes for one in acquired),
    )


def _published_with(parts: Parts, listing: Listing, fetched: Sequence[SnapshotFile]) -> tuple[SnapshotFile, ...]:
    """What a snapshot of these very files was published with: a newer Paddock that would choose another template for
    it does not change what is served."""
    try:
        there = parts.volume.snapshot(listing.model, listing.revision)
    except CorruptFile:
        return ()
    if there is None or {(file.path, file.sha256) for file in fetched} != {
        (file.path, file.sha256) for file in there.files if file.path not in DERIVED
    }:
        return ()
    kept = tuple(file for file in there.files if file.path in DERIVED)
    return kept if all(_is_whole(parts, file) for file in kept) else ()


def _derived(parts: Parts, path: str, text: str) -> SnapshotFile:
    """A file that is made here, as a blob of the volume."""
    content = text.encode(errors="surrogatepass")
    digest = parts.volume.add_bytes(content)
    described = SnapshotFile(path=path, size=len(content), sha256=digest)
    if not _is_whole(parts, described):  # one that rotted on the disk is made anew
        parts.volume.quarantine(digest)
        parts.volume.add_bytes(content)
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


def require_place(parts: Parts, plan: Plan, *, replace_promoted: bool = False) -> None:
    """Raise InUse before the first byte where `publish` would after the last one."""
    chosen = {row.file.path for row in plan.rows} - DERIVED
    _require_place(
        parts,
        plan.listing,
        plan.choice,
        same=lambda there: chosen == {file.path for file in there.files} - DERIVED,
        replace_promoted=replace_promoted,
    )


def _require_place(
    parts: Parts, listing: Listing, choice: Choice, *, same: Callable[[Manifest], bool], replace_promoted: bool
) -> None:
    """Raise InUse when another choice of the same commit is served, or promoted and not to be replaced."""
    model, revision = listing.model, listing.revision
    try:
        there = parts.volume.snapshot(model, revision)
    except CorruptFile:  # what is damaged is replaced
        return
    if there is None or same(there):
        return
    what = f"{model}@{revision[:8]} with {there.quantization or 'another choice of files'}"
    if parts.volume.in_use(model, revision):
        raise InUse(f"{what} is being served", cure="stop serving it first")
    if parts.volume.promoted(model) == revision and not replace_promoted:
        raise InUse(
            f"{what} is promoted, and a commit has one choice of files, so {choice.quantization or 'another one'} has "
            "no place",
            cure="pull the other choice with promotion, which takes its place, or remove this one first",
        )
