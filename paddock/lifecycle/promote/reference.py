"""Choose the snapshots of a comparison: what is promoted, and the reference that both are compared with."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from paddock.errors import PaddockError
from paddock.gguf.header import Header
from paddock.gguf.kind import ModelKind, kind_of
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.assess.audit import shards_of
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.model.names import Sha256


@dataclass(frozen=True, slots=True)
class Weights:
    """The main model of a snapshot by its headers: the digests of its shards, its kind, architecture, number of
    weights, and their bytes."""

    digests: frozenset[Sha256]
    kind: ModelKind
    architecture: str | None
    elements: int
    size_bytes: int

    @property
    def bits(self) -> float:
        """Bits per weight."""
        return 8 * self.size_bytes / max(self.elements, 1)


def read_weights(manifest: Manifest, directory: Path) -> Weights:
    """Read the headers of a snapshot's files in a directory. Raises the errors of the volume and of the parser."""
    paths = shards_of(directory)
    with ExitStack() as stack:
        headers = [read_header(stack.enter_context(FileSource(directory / path))) for path in paths]
    return _weights(headers, frozenset(file.sha256 for file in manifest.files if file.path in paths))


def _weights(headers: list[Header], digests: frozenset[Sha256]) -> Weights:
    tensors = [tensor for header in headers for tensor in header.tensors]
    return Weights(
        digests,
        kind_of(headers[0], all_tensors=tensors),
        headers[0].architecture,
        sum(tensor.elements for tensor in tensors),
        sum(tensor.size_bytes for tensor in tensors),
    )


def find_promoted(clients: Clients, manifest: Manifest) -> Manifest | None:
    """The promoted snapshot of the same model: that of the same variant, else that of the default; None where
    nothing is promoted. It may be the snapshot itself. Raises the errors of the volume."""
    promoted = clients.volume.promoted(manifest.model)
    id = promoted.of(manifest.variant) or promoted.default_id
    return clients.volume.snapshot(id) if id else None


def choose_reference(clients: Clients, candidate: Weights, promoted: Manifest, weights: Weights) -> Manifest:
    """The best quantization at hand: of the promoted snapshot and the others of its revision, that with the most bits
    per weight, as the headers say.

    Another revision may hold other weights, and the candidate cannot judge itself: neither is a reference. One that was
    rejected or found damaged, or is another model by its header, is passed over. `weights` are those of `promoted`.
    """
    best, bits = promoted, weights.bits
    for other in clients.volume.snapshots(promoted.model):
        if other.revision != promoted.revision or other.id == promoted.id or other.verdict is Verdict.REJECT:
            continue
        try:
            clients.volume.require_undamaged(other.id)
            found = read_weights(other, clients.volume.snapshot_path(other.id))  # compared when it is used
        except PaddockError:
            continue
        alike = (found.kind, found.architecture, found.elements) == (
            weights.kind,
            weights.architecture,
            weights.elements,
        )
        if alike and found.digests.isdisjoint(candidate.digests) and found.bits > bits:
            best, bits = other, found.bits
    return best
