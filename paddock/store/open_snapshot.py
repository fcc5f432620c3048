"""Open the files of a snapshot on the volume, and compare their bytes with its manifest through the open descriptors.

What is compared is what is used: `OpenSnapshot.directory` is a private directory that shows the files of the manifest
and nothing else. Small files are copies of the bytes that were compared, and all others are links to the descriptors.
So a file that is replaced afterwards has no effect. One that is changed in place gets another state
(`paddock.store.volume.file_states`), which `require_unchanged` finds.

| file | compared |
|---|---|
| below 16 MiB | its sha256 |
| larger, in the state that it had when its bytes were last compared | its size and state, and some segments |
| larger, in any other state | all of it |

A file with other bytes is quarantined, so that nobody uses the snapshot until it is repaired.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256 as sha256_of
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from paddock.errors import CorruptFile, NotOnVolume, PaddockError
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.quantization import is_gguf
from paddock.store import repair
from paddock.store.blob_check import BlobCheck, FileBytes, Pace, compare, is_segment_sound
from paddock.store.durable import disk_error, disk_errors_in
from paddock.store.named_blobs import NamedBlob
from paddock.store.volume import Volume
from paddock.store.volume.file_states import RECORDED_BYTES, FileState
from paddock.store.volume.snapshots import StoredManifest

_SAMPLED_SEGMENTS: Final = 2
_COPIED_BYTES: Final = 512 * 1024 * 1024
"""Of the small files of a snapshot together."""
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class _OpenFile:
    """A file that is held open, and its state when its bytes were compared."""

    file: SnapshotFile
    descriptor: int
    state: FileState


class OpenSnapshot:
    """The open files of a snapshot. `directory` shows them under their paths.

    `is_recorded`: the manifest is that which was published. Else its segment digests are not used, and all files were
    compared with their sha256.
    """

    def __init__(self, volume: Volume, stored: StoredManifest, directory: Path) -> None:
        self.manifest = stored.manifest
        self.is_recorded = stored.is_recorded
        self.directory = directory
        self._content = stored.content
        self._volume = volume
        self._files: list[_OpenFile] = []
        self._damage: CorruptFile | None = None
        self._lock = threading.Lock()

    def require_unchanged(self) -> None:
        """Compare the files again that were changed since they were compared. Costs nothing for the others, or once
        the snapshot is closed. Can be called from any thread. Raises CorruptFile, and again each time."""
        with self._lock, disk_errors_in(self._volume.root):
            if self._damage is not None:
                raise self._damage
            try:
                for number, opened in enumerate(self._files):
                    if FileState.of(os.fstat(opened.descriptor)) != opened.state:
                        self._files[number] = self._compared(opened.file, opened.descriptor)
            except CorruptFile as error:
                self._damage = error
                raise

    def record(self) -> None:
        """Record the manifest as published: the caller has audited all files."""
        self._volume.published.record(self.manifest.id, self._content)
        self.is_recorded = True

    def _open_all(self) -> None:
        manifest = self.manifest
        copied_bytes = sum(file.size for file in manifest.files if _is_small(file))
        if copied_bytes > _COPIED_BYTES:
            raise CorruptFile(
                f"the small files of {manifest.id.short} have {copied_bytes} bytes, more than {_COPIED_BYTES}",
                cure=f"remove it with `paddock rm {manifest.id}`, then pull it again",
            )
        for file in manifest.files:
            shown = self.directory / file.path
            shown.parent.mkdir(parents=True, exist_ok=True)
            if _is_small(file):
                with _closing(_open(self._volume, manifest, file)) as descriptor:
                    shown.write_bytes(_read(self._volume, manifest, file, descriptor))
            else:
                shown.symlink_to(f"/proc/self/fd/{self._hold(file)}")

    def _hold(self, file: SnapshotFile) -> int:
        """Open and compare a file, and return its descriptor, which stays open."""
        descriptor = _open(self._volume, self.manifest, file)
        try:
            self._files.append(self._compared(file, descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _close(self) -> None:
        with self._lock:
            for opened in self._files:
                os.close(opened.descriptor)
            self._files.clear()  # their numbers are given to other files

    def _compared(self, file: SnapshotFile, descriptor: int) -> _OpenFile:
        """Compare an open file with its digests, unless it is in a state in which it was compared before."""
        check = BlobCheck(problem="it is being changed")
        states, blob = self._volume.file_states, self._named(file)
        for _ in range(_ATTEMPTS):
            since_ns, before = time.time_ns(), os.fstat(descriptor)
            is_known = self.is_recorded and _is_remembered(file) and states.is_known(file.sha256, before)
            stored = FileBytes(descriptor, is_needed_again=True)
            if not (is_known and _are_sampled_segments_sound(stored, blob)):
                is_known = False
                check = compare(stored, blob, Pace())
                if not check.ok:
                    break
            if FileState.of(os.fstat(descriptor)) == FileState.of(before):
                if not is_known and _is_remembered(file):
                    states.remember(file.sha256, before, since_ns=since_ns)
                return _OpenFile(file, descriptor, FileState.of(before))
        if check.damage:
            raise _damaged(self._volume, self.manifest, file, descriptor, check.damage)
        raise CorruptFile(
            f"{file.path} of {self.manifest.id.short} on {self._volume.label} cannot be compared with its manifest:"
            f" {check.problem or 'another process changes it'}",
            cure="try again",
        )

    def _named(self, file: SnapshotFile) -> NamedBlob:
        known = file if self.is_recorded else replace(file, segments=())
        return NamedBlob(file.sha256, file.size, ((self.manifest, known),))


@contextmanager
def open_stored(volume: Volume, manifest: Manifest, *, at_end: bool = True) -> Iterator[OpenSnapshot]:
    """Open and compare all files of a snapshot, and hold them open until the block ends. Then those that were changed
    meanwhile are compared again, so that no result of the block is used that is of other bytes; not without `at_end`.

    Raises NotOnVolume, and CorruptFile for a file with other bytes than those that were published.
    """
    with ExitStack() as stack:
        volume.require_undamaged(manifest.id)
        with disk_errors_in(volume.root):
            stored = volume.stored_manifest(manifest.id)
            if stored is None:
                raise NotOnVolume(f"{manifest.id} is not on {volume.label}", cure="pull it")
            if stored.manifest.files != manifest.files:
                raise CorruptFile(
                    f"{manifest.id.short} on {volume.label} was replaced while it was opened", cure="try again"
                )
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="paddock-", ignore_cleanup_errors=True)))
            opened = OpenSnapshot(volume, stored, directory)
            stack.callback(opened._close)
            opened._open_all()
        try:
            yield opened
        except PaddockError:
            if at_end:  # other bytes may be the reason
                opened.require_unchanged()
            raise
        if at_end:
            opened.require_unchanged()


def read_stored(volume: Volume, manifest: Manifest, path: str) -> bytes | None:
    """The bytes of a small file of a snapshot, compared with its sha256; None where the manifest has no such file.
    Raises CorruptFile, NotOnVolume."""
    file = next((file for file in manifest.files if file.path == path), None)
    if file is None:
        return None
    if file.size >= RECORDED_BYTES:
        raise _wrong(volume, manifest, file, f"has {file.size} bytes, which is too large for such a file")
    with disk_errors_in(volume.root), _closing(_open(volume, manifest, file)) as descriptor:
        return _read(volume, manifest, file, descriptor)


def _is_small(file: SnapshotFile) -> bool:
    """Whether the bytes of a file are copied. The engine maps a model's file itself, however small it is."""
    return file.size < RECORDED_BYTES and not is_gguf(file.path)


def _is_remembered(file: SnapshotFile) -> bool:
    return file.size >= RECORDED_BYTES


def _are_sampled_segments_sound(stored: FileBytes, blob: NamedBlob) -> bool:
    """Compare a few segments, chosen at random. False where the manifest has no segment digests."""
    numbers = range(len(blob.segments))
    chosen = random.SystemRandom().sample(numbers, min(_SAMPLED_SEGMENTS, len(numbers)))
    return bool(chosen) and all(is_segment_sound(stored, blob, number, Pace()) for number in chosen)


def _open(volume: Volume, manifest: Manifest, file: SnapshotFile) -> int:
    """Open a file of a snapshot for reading. Raises CorruptFile for what is no file of its size, or is missing."""
    path = volume.snapshot_path(manifest.id) / file.path
    try:
        # It may be a symbolic link, where hard links are refused. A pipe would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        volume.require_undamaged(manifest.id)  # it says what is missing
        if error.errno in {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            raise disk_error(error, volume.root) from error
        raise _wrong(volume, manifest, file, f"cannot be opened ({error.strerror})") from None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size == file.size:
        return descriptor
    with _closing(descriptor):
        if not stat.S_ISREG(status.st_mode):
            raise _wrong(volume, manifest, file, "is not the file that was stored")
        was = f"it has {status.st_size} bytes, and {file.size} were stored"
        raise _damaged(volume, manifest, file, descriptor, was)


def _read(volume: Volume, manifest: Manifest, file: SnapshotFile, descriptor: int) -> bytes:
    """All bytes of an open file, compared with its sha256."""
    content = bytearray()
    while len(content) <= file.size and (block := os.read(descriptor, file.size + 1 - len(content))):
        content += block
    found = sha256_of(content).hexdigest()
    if found != file.sha256:
        raise _damaged(volume, manifest, file, descriptor, f"it has the sha256 {found}, not {file.sha256}")
    return bytes(content)


def _damaged(volume: Volume, manifest: Manifest, file: SnapshotFile, descriptor: int, found: str) -> CorruptFile:
    """Quarantine an open file with other bytes, and return the error for it. On a volume that cannot be written it
    stays; it is refused each time."""
    status = os.fstat(descriptor)
    path = volume.snapshot_path(manifest.id) / file.path
    if volume.inode(volume.blob_path(file.sha256)) == (status.st_dev, status.st_ino):
        repair.quarantine(volume, file.sha256, found_at=path)
    elif not volume.quarantined(file.sha256):
        with suppress(PaddockError):
            volume.keep_damaged(path, file.sha256)
    return _wrong(volume, manifest, file, f"was changed after it was published: {found}")


def _wrong(volume: Volume, manifest: Manifest, file: SnapshotFile, what: str) -> CorruptFile:
    return CorruptFile(
        f"{file.path} of {manifest.id.short} on {volume.label} {what}",
        cure=f"repair it with `paddock verify {manifest.id} --repair`",
    )


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
