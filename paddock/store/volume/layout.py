"""Paths on the volume, and how its directories are made. `docs/operate.md` has the whole layout.

Names from outside come in as SnapshotId, ModelName and Sha256 only, which are safe as file names. A directory of the
volume that is really a symbolic link is refused: a planted link must not make Paddock write or delete outside of the
volume. The root itself may be a link; that is the operator's choice.
"""

from __future__ import annotations

import stat
from pathlib import Path

from paddock.errors import NoPermission
from paddock.model.names import ModelName, Sha256
from paddock.model.reference import SnapshotId, Variant
from paddock.store.durable import despite_removals, names, sync_directory
from paddock.store.manifests import check_report_name
from paddock.untrusted.files import read_regular

ON_VOLUME = "volume"
"""The place of a blob's copy on the volume, in the names of records."""


class Layout:
    """The paths below `root`, and how to read there. Only `make_directory` writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private = root / ".paddock"
        self.partial = self.private / "partial"
        self.blobs = self.private / "blobs" / "sha256"
        self.snapshots = self.private / "snapshots"
        self.quarantine = self.private / "quarantine"
        self.docs = self.private / "docs"
        self.leases_root = self.private / "leases"
        self.pins_root = self.private / "pins"
        self.usage_root = self.private / "usage"
        self.counters_root = self.private / "counters"
        self.verified = self.private / "verified"
        self.published_root = self.private / "published"
        self.identity = self.private / "id"

    @property
    def directories(self) -> tuple[Path, ...]:
        """The directories that Paddock makes in its private one."""
        others = ("history", "refs", "reports", "tuning")
        return (
            self.partial,
            self.blobs.parent,
            self.snapshots,
            self.quarantine,
            self.docs,
            self.leases_root,
            self.pins_root,
            self.usage_root,
            self.counters_root,
            self.verified,
            self.published_root,
            *(self.private / name for name in others),
        )

    @property
    def label(self) -> str:
        """The volume's name in messages."""
        return f"the volume {self.root}"

    def blob(self, sha256: Sha256) -> Path:
        return self.blobs / sha256[:2] / sha256

    def snapshot(self, id: SnapshotId) -> Path:
        return self.snapshots / _relative(id)

    def default_link(self, model: ModelName) -> Path:
        return self.root / model.slug

    def variant_link(self, model: ModelName, variant: Variant) -> Path:
        return self.root / f"{model.slug}--{variant}"

    def history(self, model: ModelName) -> Path:
        return self.private / "history" / f"{model.slug}.jsonl"

    def remote_updates(self, model: ModelName) -> Path:
        """Beside the history: the last finished operation, and the updates that the remote store lacks."""
        return self.private / "history" / f"{model.slug}.state.json"

    def refs(self, model: ModelName) -> Path:
        return self.private / "refs" / f"{model.slug}.json"

    def leases(self, model: ModelName) -> Path:
        return self.leases_root / model.slug

    def pins(self, model: ModelName) -> Path:
        return self.pins_root / model.slug

    def pin(self, id: SnapshotId) -> Path:
        return self.pins_root / _relative(id)

    def usage(self, id: SnapshotId) -> Path:
        return self.usage_root / _relative(id)

    def counters(self, worker: str) -> Path:
        """`worker` was checked (`paddock.store.usage.check_worker`)."""
        return self.counters_root / f"{worker}.jsonl"

    def verification(self, sha256: Sha256, where: str) -> Path:
        return self.verified / sha256[:2] / f"{sha256}-{check_report_name(where)}.json"

    def published(self, id: SnapshotId) -> Path:
        return self.published_root / _relative(id)

    def reports(self, id: SnapshotId) -> Path:
        return self.private / "reports" / _relative(id)

    def report(self, id: SnapshotId, name: str) -> Path:
        return self.reports(id) / name

    def note(self, name: str) -> Path:
        """Beside the reports on models, whose directories have `--` in their names."""
        folder, _, file = name.partition("/")
        return self.private / "reports" / folder / check_report_name(file)

    def tuning(self, sha256: Sha256, name: str) -> Path:
        return self.private / "tuning" / sha256 / name

    def data_docs(self, id: SnapshotId) -> Path:
        return self.docs / _relative(id)

    def names(self, directory: Path) -> list[str]:
        """The names in a directory below the root, or in the root, sorted. Empty where there is no directory, or only
        behind a link."""
        return names(directory, below=self.root)

    def read(self, path: Path, *, max_bytes: int) -> bytes:
        """Read a small file of Paddock's. Raises UnusableContent where something else has its name or it is larger than
        `max_bytes`, and OSError: NotADirectoryError also where a directory is a link."""
        return read_regular(path, max_bytes=max_bytes, below=self.root)

    def make_directory(self, directory: Path) -> Path:
        """Make `directory`, which is below the root, and its parents where they are missing, and return it. Raises
        NoPermission where one of them is no real directory. Other processes may remove empty ones at the same time."""
        despite_removals(lambda: self._make_directories(directory))
        return directory

    def _make_directories(self, directory: Path) -> None:
        path = self.root
        for part in directory.relative_to(self.root).parts:
            parent, path = path, path / part
            try:
                path.mkdir()
            except FileExistsError:
                _check_is_directory(path)
            else:
                sync_directory(parent)

    def check_directory(self, directory: Path) -> Path:
        """Check an existing directory before something in it is removed, and return it. Raises NoPermission where it,
        or one of its parents below the root, is no real directory."""
        path = self.root
        for part in directory.relative_to(self.root).parts:
            path /= part
            _check_is_directory(path)
        return directory


def _relative(id: SnapshotId) -> Path:
    return Path(id.model.slug, id.revision, id.variant)


def _check_is_directory(path: Path) -> None:
    mode = path.lstat().st_mode
    if not stat.S_ISDIR(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "a file"
        raise NoPermission(f"{path} is {what} where a directory of the volume belongs", cure="move it away")
