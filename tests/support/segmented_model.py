"""A model of nine segments, and an assertion that a volume is consistent, for tests that interrupt transfers."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from paddock.lifecycle.clients import Clients
from paddock.model.names import ModelName, Sha256
from paddock.model.reference import SnapshotId
from paddock.model.source import Expected
from paddock.transfer.digest import verify_file
from tests.support.gguf import STRING, TYPE_F32, U32, Gguf, tiny_llama

SEGMENT_BYTES = 1024 * 1024


def segmented_model(version: int = 1, *, layers: int = 4, width: int = 256, inner: int = 512) -> bytes:
    """A sound Llama of about 9 MB, nine segments of `SEGMENT_BYTES`; each version has different bytes."""
    return _segmented_model(version, layers=layers, width=width, inner=inner).to_bytes()


def changed_model(version: int = 1) -> tuple[bytes, int]:
    """`segmented_model` with other feed-forward networks in three of its layers; and the bytes of these tensors."""
    file, other, size = _segmented_model(version), _segmented_model(version + 1000), 0
    for tensor, changed in zip(file.tensors, other.tensors, strict=True):
        name = str(tensor.name)
        if ".ffn_" in name and len(tensor.shape) > 1 and not name.startswith("blk.3."):
            tensor.data = changed.content()
            size += len(tensor.data)
    return file.to_bytes(), size


def _segmented_model(version: int, *, layers: int = 4, width: int = 256, inner: int = 512) -> Gguf:
    file = tiny_llama(layers=layers, width=width, inner=inner, kind=TYPE_F32)
    file.set("general.name", STRING, f"version {version}").set("llama.context_length", U32, 1024)
    for tensor in file.tensors:
        if len(tensor.shape) > 1:
            draw = np.random.default_rng([version, crc32(str(tensor.name).encode())])
            tensor.data = draw.uniform(-0.1, 0.1, tensor.shape).astype("<f4").tobytes()
    return file


def assert_volume_consistent(clients: Clients, model: ModelName) -> None:
    """Check that every blob has its digest, every snapshot its files, and that each link points to a promoted snapshot,
    or to the one promoted before the last change."""
    # Names that begin with a dot are excluded: a killed process renamed these files in order to delete them.
    for blob in (clients.settings.volume / ".paddock" / "blobs").glob("sha256/*/[!.]*"):
        verify_file(blob, Expected(blob.stat().st_size, Sha256(blob.name)), SEGMENT_BYTES)
    for manifest in clients.volume.snapshots():
        snapshot = clients.volume.snapshot_path(manifest.id)
        for file in manifest.files:
            verify_file(snapshot / file.path, Expected(file.size, file.sha256), SEGMENT_BYTES)
    promoted = clients.volume.promoted(model)
    expected = {clients.volume.snapshot_path(id) for id in promoted.ids}
    for last in clients.volume.history(model)[-1:]:  # the links may not have moved yet
        if last.previous is not None:
            expected.add(clients.volume.snapshot_path(SnapshotId(model, last.previous, last.variant)))
    for link in (clients.volume.model_path(model, variant) for variant in (None, *promoted.revisions)):
        if link.is_symlink():
            assert link.resolve() in expected
            assert (link / "manifest.json").exists()
