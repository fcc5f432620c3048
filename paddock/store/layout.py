"""Where things lie on the volume (the contract is in the design's chapter on the volume), and how its directories are
made.

Names from outside come in as SnapshotId, ModelName and Sha256 only. A directory of ours that is really a symbolic link
is refused: what was planted there must not make us write or delete outside of the volume. The root itself may be a
link; that is the operator's choice."""

from __future__ import annotations

import stat
from pathlib import Path

from paddock.errors import NoPermission
from paddock.model.names import ModelName, Sha256
from paddock.model.reference import SnapshotId, Variant
from paddock.store.durable import sync_directory
from paddock.store.manifests import check_report_name


class Layout:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.private = root / ".paddock"
        self.partial = self.private / "partial"
        self.blobs = self.private / "blobs" / "sha256"
        self.snapshots = self.private / "snapshots"
        self.quarantine = self.private / "quarantine"
        self.docs = self.private / "docs"

    def blob(self, sha256: Sha256) -> Path:
        return self.blobs / sha256[:2] / sha256

    def snapshot(self, id: SnapshotId) -> Path:
        return self.snapshots / _below(id)

    def default_link(self, model: ModelName) -> Path:
        return self.root / model.slug

    def variant_link(self, model: ModelName, variant: Variant) -> Path:
        return self.root / f"{model.slug}--{variant}"

    def history(self, model: ModelName) -> Path:
        return self.private / "history" / f"{model.slug}.jsonl"

    def progress(self, model: ModelName) -> Path:
        """Beside the history: which operation ended last, and what S3 has not been told."""
        return self.private / "history" / f"{model.slug}.state.json"

    def leases(self, model: ModelName) -> Path:
        return self.private / "leases" / model.slug

    def pin(self, id: SnapshotId) -> Path:
        return self.private / "pins" / _below(id)

    def usage(self, id: SnapshotId) -> Path:
        return self.private / "usage" / _below(id)

    def report(self, id: SnapshotId, name: str) -> Path:
        return self.private / "reports" / _below(id) / name

    def note(self, name: str) -> Path:
        """Beside the reports on models, whose directories have `--` in their names."""
        folder, _, file = name.partition("/")
        return self.private / "reports" / folder / check_report_name(file)

    def tuning(self, sha256: Sha256, name: str) -> Path:
        return self.private / "tuning" / sha256 / name

    def documents(self, id: SnapshotId) -> Path:
        return self.docs / _below(id)

    def made(self, directory: Path) -> Path:
        """`directory`, which is below the root, with all its parents: real directories, made where they are missing."""
        path = self.root
        for part in directory.relative_to(self.root).parts:
            parent, path = path, path / part
            try:
                path.mkdir()
            except FileExistsError:
                _check_real(path)
            else:
                sync_directory(parent)
        return directory

    def check(self, directory: Path) -> Path:
        """As `made`, for what is there already and is about to lose something."""
        path = self.root
        for part in directory.relative_to(self.root).parts:
            path /= part
            _check_real(path)
        return directory


def _below(id: SnapshotId) -> Path:
    return Path(id.model.slug, id.revision, id.variant)


def _check_real(path: Path) -> None:
    mode = path.lstat().st_mode
    if not stat.S_ISDIR(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "a file"
        raise NoPermission(f"{path} is {what} where a directory of the volume belongs", cure="move it away")
