"""Find what dead processes left on the volume, and what Paddock did not make.

| kind | what it is | it is an orphan when |
|---|---|---|
| partial | a download that is not complete | its owner is dead |
| staging | a temporary file, a directory that was moved away in order to remove it | no process holds it |
| blob | a blob | no snapshot names it |
| quarantine | a damaged copy of a blob | the blob is sound again, or no snapshot names it |
| lease | the lease of a server | its owner is dead |
| record | a pin, a usage, a verification or a published manifest | its snapshot or blob is gone |
| directory | a directory of a model, revision or download | it is empty |

An orphan that is young may be about to be used: the caller removes those of a certain age. Nothing is removed that
Paddock did not make.

Methods raise OSError as it comes; `disk_errors` maps it.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from paddock.errors import UnsafeName
from paddock.model.names import ModelName, Sha256, is_revision, parse_revision, parse_sha256
from paddock.model.reference import SnapshotId, parse_variant
from paddock.store import durable
from paddock.store.durable import STAGING_PREFIX, STALE_S, disk_errors
from paddock.store.volume.blobs import Blobs
from paddock.store.volume.file_states import FILES
from paddock.store.volume.layout import ON_VOLUME, Layout
from paddock.store.volume.links import PromotedLinks
from paddock.store.volume.snapshots import Snapshots
from paddock.transfer.staging import StagingDirectory, take_abandoned
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular

_PARTIAL = re.compile(r"[0-9a-z-]{1,80}")
_QUARANTINED = re.compile(r"([0-9a-f]{64})-[0-9a-f]{8}")
_VERIFIED = re.compile(r"([0-9a-f]{64})-(.+)\.json")
_REMOTE_RECORD_S = 90 * 24 * 3600.0
"""The age from which on the record of an object in a remote store, which the volume does not have, is an orphan. A
scrub of that store renews it."""
_OTHERS = frozenset({"lost+found"})


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something that a dead process left. `age_s` is since its last change; `remove` removes it, unless it is in use
    again, and returns whether it is gone."""

    kind: str
    path: Path
    bytes: int
    age_s: float
    remove: Callable[[], bool] = field(repr=False, compare=False)


class OrphanSearch:
    def __init__(self, layout: Layout, blobs: Blobs, snapshots: Snapshots, links: PromotedLinks) -> None:
        self.root = layout.root
        self._layout = layout
        self._blobs = blobs
        self._snapshots = snapshots
        self._links = links

    @disk_errors
    def find(self) -> list[Orphan]:
        """All orphans. Blobs and what belongs to them are left out while a manifest cannot be read."""
        in_use = self._snapshots.blobs_in_use()
        return [
            *self._partials(),
            *self._staging(),
            *(self._of_blobs(in_use) if in_use is not None else ()),
            *self._leases(),
            *self._records_of_snapshots(),
            *self._empty_directories(),
        ]

    @disk_errors
    def remove(self, orphan: Orphan) -> bool:
        """Remove an orphan, unless it is in use again; returns whether it is gone."""
        self._layout.check_directory(orphan.path.parent)
        return orphan.remove()

    @disk_errors
    def foreign(self) -> list[Path]:
        """Files that Paddock did not make: in the root, and in the directories whose content is known."""
        layout, found = self._layout, list[Path]()
        for name in self._layout.names(layout.root):
            path = layout.root / name
            if path != layout.private and name not in _OTHERS and not self._links.is_link(path):
                found.append(path)
        known = {path.name for path in (*layout.directories, layout.identity)}
        found += self._others(layout.private, lambda path: path.name in known)
        found += self._others(layout.blobs.parent, lambda path: path == layout.blobs)
        found += self._others(layout.blobs, lambda path: bool(re.fullmatch("[0-9a-f]{2}", path.name)))
        for prefix in self._layout.names(layout.blobs):
            found += self._others(layout.blobs / prefix, _is_blob)
        found += self._others(layout.partial, lambda path: path.is_dir() and bool(_PARTIAL.fullmatch(path.name)))
        found += self._others(
            layout.quarantine, lambda path: _is_file(path) and bool(_QUARANTINED.fullmatch(path.name))
        )
        found += self._others(layout.snapshots, _is_model)
        for slug in self._layout.names(layout.snapshots):
            found += self._others(layout.snapshots / slug, lambda path: is_revision(path.name))
        return sorted(found)

    def staging_directories(self) -> list[Path]:
        """The directories in which there may be staging names."""
        layout = self._layout
        directories = [layout.private, layout.partial, layout.blobs]
        directories += [layout.blobs / prefix for prefix in self._layout.names(layout.blobs)]
        for slug in self._layout.names(layout.snapshots):
            directories += [
                layout.snapshots / slug / revision for revision in self._layout.names(layout.snapshots / slug)
            ]
        return directories

    def _all_staging_directories(self) -> list[Path]:
        """As `staging_directories`, with those of small records, in which a killed process leaves a few bytes."""
        directories = self.staging_directories()
        known = {self._layout.partial, self._layout.blobs.parent, self._layout.snapshots, self._layout.quarantine}
        for top in self._layout.directories:
            if top not in known and not top.is_symlink():
                directories += [Path(directory) for directory, _, _ in os.walk(top)]
        return directories

    def _others(self, directory: Path, is_ours: Callable[[Path], bool]) -> list[Path]:
        paths = [directory / name for name in self._layout.names(directory) if not name.startswith(STAGING_PREFIX)]
        return [path for path in paths if not is_ours(path)]

    def _partials(self) -> Iterator[Orphan]:
        for key in self._layout.names(self._layout.partial):
            for token in self._layout.names(self._layout.partial / key) if _PARTIAL.fullmatch(key) else ():
                path = self._layout.partial / key / token
                owned: StagingDirectory | None = None
                with suppress(OSError):
                    owned = take_abandoned(path)
                if owned is not None:
                    owned.journal.close()
                elif (path / "journal").exists():
                    continue
                newest = max(_modified_at(path / name) for name in (".", "journal", "data"))
                yield Orphan("partial", path, _tree_bytes(path), time.time() - newest, partial(_remove_partial, path))

    def _staging(self) -> Iterator[Orphan]:
        for directory in self._all_staging_directories():
            for path, age_s in durable.leftovers(directory):
                yield Orphan("staging", path, _tree_bytes(path), age_s, partial(_remove_staging, path))

    def _of_blobs(self, in_use: Set[Sha256]) -> Iterator[Orphan]:
        now = time.time()
        for sha256 in sorted(self._blobs.unlinked(older_than_s=0) - in_use):
            status = self._blobs.status(sha256)
            if status is not None:
                age_s = now - max(status.st_mtime, self._blobs.renewed_at(sha256))
                remove = partial(self._remove_blob, sha256)
                yield Orphan("blob", self._layout.blob(sha256), status.st_size, age_s, remove)
        for name in self._layout.names(self._layout.quarantine):
            path, match = self._layout.quarantine / name, _QUARANTINED.fullmatch(name)
            if match is None or not _is_file(path):
                continue
            sha256 = Sha256(match[1])
            if path.lstat().st_nlink > 1 and sha256 in in_use:  # a snapshot shows the damaged bytes still
                continue
            if sha256 not in in_use or self._blobs.status(sha256) is not None:
                yield _file("quarantine", path, now)
        for prefix in self._layout.names(self._layout.verified):
            for name in self._layout.names(self._layout.verified / prefix):
                path, match = self._layout.verified / prefix / name, _VERIFIED.fullmatch(name)
                if match is None or Sha256(match[1]) in in_use or self._blobs.status(Sha256(match[1])) is not None:
                    continue
                if match[2] in {ON_VOLUME, FILES} or now - _modified_at(path) > _REMOTE_RECORD_S:
                    yield _file("record", path, now)

    def _remove_blob(self, sha256: Sha256) -> bool:
        self._blobs.free([sha256], self._snapshots.blobs_in_use)
        return self._blobs.status(sha256) is None

    def _leases(self) -> Iterator[Orphan]:
        for slug in self._layout.names(self._layout.leases_root):
            for name in self._layout.names(self._layout.leases_root / slug):
                path = self._layout.leases_root / slug / name
                if not name.startswith(STAGING_PREFIX) and _is_file(path) and not _is_locked(path):
                    yield _file("lease", path, time.time())

    def _records_of_snapshots(self) -> Iterator[Orphan]:
        for root in (self._layout.pins_root, self._layout.usage_root, self._layout.published_root):
            for slug in self._layout.names(root):
                for revision in self._layout.names(root / slug):
                    for variant in self._layout.names(root / slug / revision):
                        path = root / slug / revision / variant
                        try:
                            id = SnapshotId(ModelName.from_slug(slug), parse_revision(revision), parse_variant(variant))
                        except UnsafeName:
                            continue
                        if self._snapshots.exists(id):
                            continue
                        if _is_file(path):
                            yield _file("record", path, time.time())
                        elif root == self._layout.published_root and not path.is_symlink():
                            remove = partial(_remove_tree, path)
                            yield Orphan("record", path, _tree_bytes(path), time.time() - _modified_at(path), remove)

    def _empty_directories(self) -> Iterator[Orphan]:
        layout = self._layout
        for root in (layout.snapshots, layout.pins_root, layout.usage_root, layout.published_root, layout.partial):
            for slug in layout.names(root):
                yield from _empty(root / slug)
                for revision in layout.names(root / slug) if root != layout.partial else ():
                    yield from _empty(root / slug / revision)


def _empty(path: Path) -> Iterator[Orphan]:
    with suppress(OSError):
        if not path.is_symlink() and path.is_dir() and not any(path.iterdir()):
            yield Orphan("directory", path, 0, time.time() - path.stat().st_mtime, partial(_remove_directory, path))


def _file(kind: str, path: Path, now: float) -> Orphan:
    status = path.lstat()
    return Orphan(kind, path, status.st_blocks * 512, now - status.st_mtime, partial(_unlink, path))


def _unlink(path: Path) -> bool:
    path.unlink(missing_ok=True)
    return True


def _remove_tree(path: Path) -> bool:
    durable.remove(path)
    return True


def _remove_directory(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:  # not empty any more
        return False
    return True


def _remove_staging(path: Path) -> bool:
    if time.time() - _modified_at(path) > STALE_S:  # a younger one may be a living writer's
        durable.remove(path)
    return not os.path.lexists(path)


def _remove_partial(path: Path) -> bool:
    owned = take_abandoned(path)
    if owned is not None:
        owned.discard()
    elif not (path / "journal").exists() and time.time() - _modified_at(path) > STALE_S:
        durable.remove(path)  # its owner died before it wrote a journal
    return not path.exists()


def _is_blob(path: Path) -> bool:
    try:
        parse_sha256(path.name)
    except UnsafeName:
        return False
    return _is_file(path)


def _is_model(path: Path) -> bool:
    try:
        ModelName.from_slug(path.name)
    except UnsafeName:
        return False
    return path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _is_locked(path: Path) -> bool:
    """Whether a process holds the flock of a file, as far as this machine can tell."""
    try:
        descriptor = open_regular(path)
    except (OSError, UnusableContent):
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _modified_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return float("-inf")


def _tree_bytes(path: Path) -> int:
    """The space that a file or a tree takes. Files with another hard link keep it."""
    found = list(durable.statuses(path))
    if not path.is_dir():
        with suppress(OSError):
            found = [path.lstat()]
    return sum(one.st_blocks * 512 for one in found if stat.S_ISREG(one.st_mode) and one.st_nlink == 1)
