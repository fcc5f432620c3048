"""Check that a volume is consistent, as it must be after any fault."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from paddock.errors import PaddockError
from paddock.model.names import ModelName
from paddock.store import durable
from paddock.store.durable import STAGING_PREFIX
from paddock.store.volume import Volume
from tests.support.stores import MODEL
from tests.support.volume_operations import Pointers

WRONG_BYTES = "wrong bytes"
"""In the text of each problem that is about bytes other than their digest."""


def problems(root: Path) -> Iterator[str]:
    """Inconsistencies of the volume, of which there must be none after any fault."""
    volume = Volume(root)
    for path in (root / ".paddock" / "blobs" / "sha256").glob("*/*"):
        if len(path.name) == 64 and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"the blob {path.name} has {WRONG_BYTES}"
    for model in _models(root):
        yield from _problems_of(volume, model)
    for path in root.iterdir():
        if path.is_symlink() and not (path / "manifest.json").is_file():
            yield f"{path} points to {path.readlink()}, which is missing"
        elif path.name != ".paddock" and not path.is_symlink():
            yield f"{path} should not be in the root"


def left_behind(root: Path) -> list[str]:
    """Staging names that a process which was not killed should have removed: all but the renewals of blobs whose age
    another user's process may not set (`paddock.store.volume.blobs`)."""
    staging = [path for path in sorted(root.rglob(f"{STAGING_PREFIX}*")) if len(path.name) != len(STAGING_PREFIX) + 64]
    return [str(path.relative_to(root)) for path in staging]


def _models(root: Path) -> list[ModelName]:
    return [ModelName.from_slug(name) for name in durable.names(root / ".paddock" / "snapshots")]


def _problems_of(volume: Volume, model: ModelName) -> Iterator[str]:
    for id in volume.ids(model):
        directory = volume.snapshot_path(id)
        try:
            manifest = volume.snapshot(id)
        except PaddockError as error:
            yield str(error)
            continue
        if manifest is None:
            yield f"{directory} is visible without a manifest"
            continue
        for file in manifest.files:
            path = directory / file.path
            if not path.is_file():
                yield f"{path} is missing"
            elif hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
                yield f"{path} has {WRONG_BYTES}"
            if not volume.has_blob(file.sha256, file.size):
                yield f"{path} has no blob"
    promoted = volume.promoted(model)
    yield from (f"{id} is promoted, but missing" for id in promoted.ids if volume.snapshot(id) is None)


def intermediate_states(current: Pointers, old: Pointers, new: Pointers) -> Iterator[str]:
    """Intermediate states of a change of the promoted snapshots, of which there must be none.

    These are any state but the old and the new one, a link that moved before the history was written, and a default
    that moved before its variant.
    """
    if (current.promoted, current.history) not in [(old.promoted, old.history), (new.promoted, new.history)]:
        yield f"an intermediate state: {current.promoted} after {current.history}"
    moved = {name for name in old.links | new.links if old.links.get(name) != new.links.get(name)}
    done = {name for name in moved if current.links.get(name) == new.links.get(name)}
    for name in (current.links | old.links | new.links).keys() - done:
        if current.links.get(name) != old.links.get(name):
            yield f"{name} points to {current.links.get(name)}"
    if done and current.history != new.history:
        yield f"{sorted(done)} moved before the history was written"
    if MODEL.slug in done and done != moved:
        yield f"{MODEL.slug} moved before {sorted(moved - done)}"
