"""A sound model that takes a while to fetch, and what must hold on a volume at every moment."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from paddock.lifecycle.parts import Parts
from paddock.model.names import ModelName, Sha256
from paddock.model.source import Expected
from paddock.transfer.digest import verify_file
from tests.support.gguf import STRING, TYPE_F32, U32, tiny_llama

SEGMENT_BYTES = 1024 * 1024


def larger(version: int = 1, *, layers: int = 4, width: int = 256, inner: int = 512) -> bytes:
    """A Llama of some 9 MB, which is nine segments; other bytes for each version."""
    file = tiny_llama(layers=layers, width=width, inner=inner, kind=TYPE_F32)
    file.set("general.name", STRING, f"version {version}").set("llama.context_length", U32, 1024)
    for tensor in file.tensors:
        if len(tensor.shape) > 1:
            draw = np.random.default_rng([version, crc32(str(tensor.name).encode())])
            tensor.data = draw.uniform(-0.1, 0.1, tensor.shape).astype("<f4").tobytes()
    return file.to_bytes()


def nothing_half_made(parts: Parts, model: ModelName) -> None:
    """Every blob has its digest, every snapshot its files, and the pointer, where there is one, a snapshot."""
    # But for what a dead one put aside in order to remove it: a name that nobody reads.
    for blob in (parts.settings.volume / ".paddock" / "blobs").glob("sha256/*/[!.]*"):
        verify_file(blob, Expected(blob.stat().st_size, Sha256(blob.name)), SEGMENT_BYTES)
    for manifest in parts.volume.snapshots():
        snapshot = parts.volume.snapshot_path(manifest.model, manifest.revision)
        for file in manifest.files:
            verify_file(snapshot / file.path, Expected(file.size, file.sha256), SEGMENT_BYTES)
    pointer = parts.volume.model_path(model)
    if pointer.is_symlink():
        assert pointer.resolve().name == parts.volume.promoted(model)
        assert (pointer / "manifest.json").exists()
