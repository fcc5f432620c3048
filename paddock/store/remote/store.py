"""Remote store over an object service: S3, or any other that implements `Objects`.

    blobs/sha256/<sha256>
    snapshots/org--name/<revision>/<variant>.json     the manifest, written after its blobs
    refs/org--name.json                               the promoted revisions (`Ref`)
    reports/org--name/<revision>/<variant>/<name>
    reports/<folder>/<file>                           a note, which belongs to no snapshot
    leases/<sha256>.json                              the download lease of a blob
    usage/...                                         what each worker used (`RemoteUsage`)
    marks/<sha256>.json                               the mark of a blob that nothing names (`RemovalMarks`)
    holdings/<name>.json                              what a volume has (`Holdings`)

An object becomes visible as a whole, so a blob needs no staging. A ref is written on the condition that nobody wrote it
since it was read; when another worker was faster, it is read again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from paddock.errors import BlobMissing, CorruptFile, InUse, NotOnVolume, SnapshotDiffers, StoreUnavailable, UnsafeName
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.derived_files import DERIVED_FILES
from paddock.model.names import ModelName, Sha256, parse_revision, parse_sha256
from paddock.model.reference import SnapshotId, parse_variant
from paddock.model.source import Expected, Source
from paddock.store.features import StoreFeatures
from paddock.store.history import Promoted
from paddock.store.holdings import Holdings, is_stale
from paddock.store.manifests import (
    check_manifest_name_is_free,
    check_report_name,
    document_text,
    parse_manifest,
    report_names,
    same_files,
)
from paddock.store.multipart import MultipartReader
from paddock.store.protocol import DownloadLease, HeldLease, RemoteStore, RemovalMark
from paddock.store.remote import download_lease
from paddock.store.remote.conditional_writes import ConditionalWrites
from paddock.store.remote.objects import Objects
from paddock.store.remote.probe import probe_features
from paddock.store.remote.refs import Ref
from paddock.store.remote.remote_blob import RemoteBlob
from paddock.store.remote.removal_marks import RemovalMarks
from paddock.store.remote.usage import RemoteUsage
from paddock.store.usage import UsageRow
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.json_text import parse_json

log = logging.getLogger(__name__)
_MAX_REF_BYTES = 1024 * 1024
_CONFLICTS = 20
"""Number of attempts at a conditional write of a ref, while other workers write it too."""


class ObjectStore(RemoteStore):
    """Makes no request until a method is called.

    Memory: a blob is sent by `objects.connections` threads, each with one part of about a segment.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._writes = ConditionalWrites(objects)
        self._usage = RemoteUsage(objects, self._writes)
        self._marks = RemovalMarks(objects, self._writes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label!r})"

    @property
    def label(self) -> str:
        return self.objects.label

    def check(self) -> None:
        next(iter(self.objects.list("refs/")), None)

    def features(self) -> StoreFeatures:
        return probe_features(self.objects)

    def has_blob(self, sha256: Sha256, size: int) -> bool:
        return self.blob_tag(sha256, size) is not None

    def blob_tag(self, sha256: Sha256, size: int) -> str | None:
        found = self.objects.stat(_blob_key(sha256))
        return found.tag if found is not None and found.size == size else None

    def source(self, file: SnapshotFile, *, model: ModelName | None = None) -> Source:
        name = f"{model}: {file.path}" if model else file.path
        key = _blob_key(file.sha256)
        expected = Expected(size=file.size, sha256=file.sha256)
        return RemoteBlob(f"{self.label}: {name}", expected, lambda: self.objects.address(key))

    def put_blob(
        self,
        path: Path,
        file: SnapshotFile,
        *,
        segment_bytes: int,
        progress: Callable[[int], None] | None = None,
        damaged: Collection[int] | None = None,
    ) -> int:
        """As `RemoteStore.put_blob`. The write is not conditional: an object of this name with another size is damaged,
        and is replaced. Parts that were sent before the service stopped responding are kept for the next attempt."""
        is_there = self.has_blob(file.sha256, file.size)
        if is_there and damaged is None:
            self._marks.clear_one(file.sha256)
            return 0
        with MultipartReader(path, file, segment_bytes=segment_bytes) as reader:
            keep = reader.parts_without(damaged) if is_there and damaged else frozenset[int]()
            sent = self.objects.upload(_blob_key(file.sha256), reader, progress=progress or (lambda _: None), keep=keep)
        if sent is not None:
            return sent
        if self.has_blob(file.sha256, file.size):  # another worker completed it, or the response to ours was lost
            return file.size
        raise StoreUnavailable(f"{self.label}: another worker ended the upload of {file.path}", cure="try again")

    def drop_blob(self, sha256: Sha256) -> None:
        self.objects.delete(_blob_key(sha256))

    def snapshot(self, id: SnapshotId) -> Manifest | None:
        key = _manifest_key(id)
        found = self.objects.get(key)
        return parse_manifest(found.content, id, where=f"{self.label}/{key}") if found else None

    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        def read(id: SnapshotId) -> Manifest | None:
            try:
                return self.snapshot(id)
            except CorruptFile as error:
                log.warning("a snapshot is left out: %s", error)
                return None

        with ThreadPoolExecutor(self.objects.connections) as pool:
            found = [manifest for manifest in pool.map(read, self._ids(model)) if manifest]
        return sorted(found, key=lambda manifest: (manifest.repository, manifest.created_at))

    def ids(self, model: ModelName) -> list[SnapshotId]:
        return list(self._ids(model))

    def publish(self, manifest: Manifest) -> None:
        check_manifest_name_is_free(manifest)
        self._check_blobs(manifest)
        self._marks.clear(file.sha256 for file in manifest.files)
        published = None
        with suppress(CorruptFile):  # a manifest that cannot be read is replaced
            published = self.snapshot(manifest.id)
        if published is not None and not same_files(published, manifest, but=DERIVED_FILES):
            raise SnapshotDiffers(
                f"{manifest.id} is in {self.label} with other files, and a snapshot is never replaced",
                cure=f"remove {self.label}/{_manifest_key(manifest.id)}, then cache it again",
            )
        if published is None:
            self.objects.put(_manifest_key(manifest.id), manifest.to_json().encode())
        try:
            # Now that the manifest is visible: see `paddock.store.remote.removal_marks`.
            self._marks.wait_until_unclaimed(file.sha256 for file in manifest.files)
            self._check_blobs(manifest)
        except BlobMissing:
            if published is None:
                self.objects.delete(_manifest_key(manifest.id))
            raise

    def _check_blobs(self, manifest: Manifest) -> None:
        """Raise BlobMissing unless the store has each blob."""
        with ThreadPoolExecutor(self.objects.connections) as pool:
            present = pool.map(lambda file: self.has_blob(file.sha256, file.size), manifest.files)
            for file, is_there in zip(manifest.files, present, strict=True):
                if not is_there:
                    raise BlobMissing(
                        f"the snapshot {manifest.id.short} cannot be published: the blob of"
                        f" {file.path} ({file.sha256[:12]}…) is not in {self.label}",
                        cure="send that file again",
                    )

    def promoted(self, model: ModelName) -> Promoted:
        ref, _ = self._ref(model)
        return ref.promoted(model)

    def promote(self, ids: Sequence[SnapshotId], *, default: SnapshotId | None = None) -> None:
        for id in ids:
            if self.snapshot(id) is None:
                raise NotOnVolume(f"{id} is not in {self.label}", cure=f"send it there first (`paddock cache {id}`)")
        model = next(iter([*ids, *([default] if default else [])])).model
        for _ in range(_CONFLICTS):
            before, tag = self._ref(model)
            after = before.with_promoted(ids, default=default.variant if default else None)
            if after == before:
                return
            if default and default.variant not in after.variants:
                raise NotOnVolume(f"{default.name} is not promoted in {self.label}", cure="promote it there first")
            written = self._put_ref(model, after, tag)
            if written is not None:
                self._check_promoted(ids, model, before, written)
                return
        raise StoreUnavailable(
            f"the ref of {model} in {self.label} is written by other workers all the time", cure="try again"
        )

    def _check_promoted(self, ids: Sequence[SnapshotId], model: ModelName, before: Ref, tag: str) -> None:
        """Look for each snapshot again, now that the ref names it, and undo that where one is gone: `remove` looks at
        the ref again after it removed the manifest, so that one of the two sees the other."""
        gone = next((id for id in ids if self.snapshot(id) is None), None)
        if gone is not None:
            self._put_ref(model, before, tag)
            raise StoreUnavailable(f"{gone.short} was removed from {self.label} just now", cure="send it there again")

    def previous(self, model: ModelName) -> list[SnapshotId]:
        ref, _ = self._ref(model)
        found = ((variant, pointer.previous) for variant, pointer in sorted(ref.variants.items()))
        return [SnapshotId(model, revision, variant) for variant, revision in found if revision is not None]

    def remove(self, id: SnapshotId) -> None:
        self._check_not_promoted(id)
        found = self.objects.get(_manifest_key(id))
        self.objects.delete(_manifest_key(id))
        try:
            self._check_not_promoted(id)
        except InUse:
            if found is not None:
                self.objects.put(_manifest_key(id), found.content)
            raise

    def _check_not_promoted(self, id: SnapshotId) -> None:
        promoted = self.promoted(id.model).holds(id)
        if promoted or id in self.previous(id.model):
            what = "is promoted" if promoted else "was promoted before what is promoted now"
            raise InUse(f"{id.short} {what} in {self.label}", cure="promote other revisions first")

    def blobs(self) -> dict[Sha256, int]:
        found = {}
        for key, size in self.objects.list("blobs/sha256/"):
            with suppress(UnsafeName):  # not an object of Paddock's
                found[parse_sha256(key.rpartition("/")[2])] = size
        return found

    def named_blobs(self) -> Set[Sha256] | None:
        def read(id: SnapshotId) -> set[Sha256]:
            manifest = self.snapshot(id)
            return {file.sha256 for file in manifest.files} if manifest else set()

        with ThreadPoolExecutor(self.objects.connections) as pool:
            try:
                return set().union(*pool.map(read, self._ids(None)))
            except CorruptFile as error:
                log.warning("no blob is removed while a manifest cannot be read: %s", error)
                return None

    def marks(self) -> dict[Sha256, RemovalMark]:
        return self._marks.all()

    def mark_blob(self, sha256: Sha256, before: RemovalMark | None) -> None:
        self._marks.write(sha256, "marked", before)

    def unmark_blob(self, sha256: Sha256, mark: RemovalMark) -> None:
        self._marks.withdraw(sha256, mark)

    def remove_marked(
        self, blobs: Mapping[Sha256, RemovalMark], *, needed: Callable[[], Set[Sha256] | None]
    ) -> set[Sha256]:
        return self._marks.remove_blobs(blobs, needed=needed, delete=self.drop_blob)

    def write_holdings(self, name: str, holdings: Holdings) -> None:
        self.objects.put(f"holdings/{check_report_name(f'{name}.json')}", holdings.to_json().encode())

    def holdings(self) -> dict[str, Holdings | None]:
        found: dict[str, Holdings | None] = {}
        for key, _ in list(self.objects.list("holdings/")):
            stored = self.objects.get(key)
            if stored is None:
                continue
            name = key.removeprefix("holdings/").removesuffix(".json")
            try:
                found[name] = Holdings.from_json(stored.content, age_s=stored.age_s)
            except ValueError as error:
                log.warning("%s/%s cannot be read: %s", self.label, key, error)
                if not is_stale(stored.age_s):
                    found[name] = None
        return found

    def take_lease(self, sha256: Sha256, *, lease_s: float) -> DownloadLease | HeldLease | None:
        return download_lease.take(self.objects, self._writes, sha256, lease_s=lease_s)

    def take_over_lease(self, sha256: Sha256, other: HeldLease) -> DownloadLease | None:
        return download_lease.take_over(self.objects, self._writes, sha256, other)

    def write_report(self, id: SnapshotId, name: str, content: str | bytes) -> str:
        key = _report_key(id, name)
        self.objects.put(key, content.encode() if isinstance(content, str) else content)
        return f"{self.label}/{key}"

    def read_report(self, id: SnapshotId, name: str) -> str | None:
        return self._text(_report_key(id, name))

    def report_names(self, id: SnapshotId) -> list[str]:
        directory = _report_directory(id)
        return report_names(key.removeprefix(directory) for key, _ in self.objects.list(directory))

    def remove_report(self, id: SnapshotId, name: str) -> None:
        self.objects.delete(_report_key(id, name))

    def write_note(self, name: str, text: str) -> str:
        key = _note_key(name)
        self.objects.put(key, text.encode())
        return f"{self.label}/{key}"

    def read_note(self, name: str) -> str | None:
        return self._text(_note_key(name))

    def _text(self, key: str) -> str | None:
        """The text of an object; None where there is none, or it is no text. Its next writer replaces it."""
        found = self.objects.get(key)
        try:
            return document_text(found.content) if found else None
        except UnusableContent as error:
            log.warning("%s/%s is ignored: %s", self.label, key, error.reason)
            return None

    def write_usage(self, worker: str, volume_id: str, content: bytes) -> None:
        self._usage.write(worker, volume_id, content)

    def usage(self) -> list[UsageRow]:
        return self._usage.rows()

    def merge_silent_usage(self, *, silent_s: float) -> int:
        return self._usage.merge_silent(silent_s=silent_s)

    def sizes(self) -> tuple[int, int]:
        return sum(manifest.size_bytes for manifest in self.snapshots()), sum(self.blobs().values())

    def _ref(self, model: ModelName) -> tuple[Ref, str | None]:
        """(the ref, its tag); an empty ref and None where there is none. A ref that cannot be read counts as empty, and
        is replaced."""
        found = self.objects.get(_ref_key(model))
        if found is None:
            return Ref(), None
        try:
            return Ref.from_json(parse_json(found.content, max_bytes=_MAX_REF_BYTES)), found.tag
        except ValueError:
            log.warning("the ref of %s in %s cannot be read, and is not used", model, self.label)
            return Ref(), found.tag

    def _put_ref(self, model: ModelName, ref: Ref, tag: str | None) -> str | None:
        """Write a ref. Returns its tag, or None when another worker wrote it since it was read."""
        return self._writes.put_if(_ref_key(model), json.dumps(ref.to_json()).encode(), tag=tag)

    def _ids(self, model: ModelName | None) -> Iterator[SnapshotId]:
        for key, _ in self.objects.list(f"snapshots/{model.slug}/" if model else "snapshots/"):
            slug, _, rest = key.removeprefix("snapshots/").partition("/")
            revision, _, name = rest.partition("/")
            try:
                if name.endswith(".json"):
                    variant = parse_variant(name.removesuffix(".json"))
                    yield SnapshotId(ModelName.from_slug(slug), parse_revision(revision), variant)
            except UnsafeName:  # not an object of Paddock's
                continue


def _blob_key(sha256: Sha256) -> str:
    return f"blobs/sha256/{sha256}"


def _manifest_key(id: SnapshotId) -> str:
    return f"snapshots/{id.model.slug}/{id.revision}/{id.variant}.json"


def _ref_key(model: ModelName) -> str:
    return f"refs/{model.slug}.json"


def _report_key(id: SnapshotId, name: str) -> str:
    return _report_directory(id) + check_report_name(name)


def _note_key(name: str) -> str:
    """Beside the reports on models, whose folders have `--` in their names."""
    folder, _, file = name.partition("/")
    return f"reports/{folder}/{check_report_name(file)}"


def _report_directory(id: SnapshotId) -> str:
    return f"reports/{id.model.slug}/{id.revision}/{id.variant}/"
