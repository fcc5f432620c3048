"""Edit a file of a published snapshot in ways that its size, its name or its times do not tell."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from paddock.model.reference import SnapshotId
from paddock.store.volume import Volume


def in_place(path: Path, offset: int = 0) -> None:
    """Change a byte in place; the size, the mode and the time of the last change of the bytes stay."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x20]))
    path.chmod(status.st_mode & 0o7777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def by_another_file(path: Path, offset: int = 0) -> None:
    """Replace the file in one rename by a changed copy with the same times."""
    status = path.stat()
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    in_place(copy, offset)
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.rename(path)


def by_a_link(path: Path, offset: int = 0) -> None:
    """Replace the file by a link to a changed copy outside of the snapshot."""
    aside = path.parents[6] / f"aside-{sha256(str(path).encode()).hexdigest()[:8]}"
    aside.write_bytes(path.read_bytes())
    in_place(aside, offset)
    path.unlink()
    path.symlink_to(aside)


def by_a_longer_file(path: Path, offset: int = 0) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"{{ 'more' }}")


def by_a_pipe(path: Path, offset: int = 0) -> None:
    path.unlink()
    os.mkfifo(path)


def by_a_device(path: Path, offset: int = 0) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


EDITS: dict[str, Callable[[Path, int], None]] = {
    "in place": in_place,
    "by another file": by_another_file,
    "by a link": by_a_link,
    "by a longer file": by_a_longer_file,
    "by a pipe": by_a_pipe,
    "by a device": by_a_device,
}
"""The ways that change a file alone."""


def with_its_manifest(volume: Volume, id: SnapshotId, name: str, content: bytes, *, recorded: bool = True) -> None:
    """Replace a file, its blob and what the manifest says of it, so that all agree. `recorded` False: remove the record
    of the manifest's publication too."""
    snapshot = volume.snapshot_path(id)
    path, manifest = snapshot / name, snapshot / "manifest.json"
    value = json.loads(manifest.read_bytes())
    digest = sha256(content).hexdigest()
    for file in value["files"]:
        if file["path"] == name:
            file |= {"size": len(content), "sha256": digest, "segments": []}
    blob = volume.root / ".paddock" / "blobs" / "sha256" / digest[:2] / digest
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(content)
    path.unlink()
    os.link(blob, path)
    manifest.unlink()
    manifest.write_text(json.dumps(value))
    if not recorded:
        volume.published.remove(id, visible=lambda: None)
