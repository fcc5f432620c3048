"""Seed the transfer of a GGUF with the tensors that other files of the model on the volume have already.

A new revision often changes the chat template or the metadata alone, or a few tensors. The header of the new file tells
where its tensors lie. Of each one that a stored file has too, by name, shape and type, a few short samples are fetched
and compared; what matches is copied, and the transfer fetches the rest. The sha256 of the whole file proves the result.
Where it does not match, the transfer fetches every segment again, as it does for any damaged file.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from paddock.errors import MalformedGguf, NotGguf, PaddockError
from paddock.gguf.header import Header
from paddock.gguf.reader import FileSource, read_header
from paddock.gguf.reuse import ReusableTensor, reusable_tensors
from paddock.lifecycle.assess.header_cache import read_remote
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import SnapshotFile
from paddock.model.names import ModelName, Sha256
from paddock.model.quantization import is_gguf
from paddock.model.source import Source
from paddock.model.units import human_bytes
from paddock.transfer.samples import SampleReader
from paddock.transfer.seed import StoredSpan, seed_spans

log = logging.getLogger(__name__)

MIN_BYTES = 1024 * 1024
"""A smaller file is fetched: comparing it takes longer."""
_SAMPLE_BYTES = 1024
_BYTES_FOR_A_SAMPLE = 16 * 1024 * 1024
_MAX_SAMPLES = 8
_SMALL_TENSOR_BYTES = 16 * 1024
"""A smaller tensor is fetched: a sample costs a request too."""
_FIRST = 16
"""The number of tensors that are compared first. Where none of them matches, the file is another one."""
_MAX_STORED = 8
"""How many files of the volume are compared with, the newest first."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """The bytes that were copied from stored files, and those that were received to find them."""

    copied_bytes: int = 0
    received_bytes: int = 0


NOTHING_SEEDED = Seeded()


@dataclass(frozen=True, slots=True)
class _Stored:
    file: SnapshotFile
    header: Header
    source: FileSource


def seed_from_stored(clients: Clients, model: ModelName, source: Source, *, path: str, segment_bytes: int) -> Seeded:
    """Seed the next transfer of a GGUF of the model. Whatever goes wrong here is logged: the file is fetched whole."""
    expected = source.expected
    if expected.sha256 is None or expected.size < MIN_BYTES or (clients.volume.partial / expected.sha256).exists():
        return NOTHING_SEEDED
    received = 0
    try:
        with ExitStack() as stack:
            stored = _stored_files(clients, model, stack, path=path, wanted=expected.sha256)
            if not stored:
                return NOTHING_SEEDED
            with read_remote(clients.settings, source) as reader:
                header = read_header(reader)
                head = reader.read_at(0, header.data_offset)
            received += reader.bytes_read
            tensors = reusable_tensors(header, [one.header for one in stored])
            with SampleReader(source, stall_s=clients.settings.stall_s) as samples:
                spans = _same_data(tensors, stored, samples)
            received += samples.bytes_read
            if not spans:
                return Seeded(received_bytes=received)
            seeded = seed_spans(expected, head, spans, staging=clients.volume.partial, segment_bytes=segment_bytes)
            copied = sum(span.length for span in spans) if seeded else 0
            log.info("%s: %s are here already, in other files of %s", source.label, human_bytes(copied), model)
            return Seeded(copied, received)
    except (PaddockError, OSError) as error:
        log.info("%s is fetched whole: %s", source.label, error)
        return Seeded(received_bytes=received)


def _stored_files(clients: Clients, model: ModelName, stack: ExitStack, *, path: str, wanted: Sha256) -> list[_Stored]:
    """The GGUFs of the model on the volume with a readable header: those of the same path first, then the newest."""
    manifests = sorted(clients.volume.snapshots(model), key=lambda manifest: manifest.created_at, reverse=True)
    files = {file.sha256: file for manifest in manifests for file in manifest.files if is_gguf(file.path)}
    ordered = sorted(files.values(), key=lambda file: file.path != path)
    found = []
    for file in ordered[:_MAX_STORED]:
        if file.sha256 == wanted:
            continue
        try:
            source = stack.enter_context(FileSource(clients.volume.blob_path(file.sha256)))
            found.append(_Stored(file, read_header(source), source))
        except (NotGguf, MalformedGguf, PaddockError):
            continue
    return found


def _same_data(tensors: Sequence[ReusableTensor], stored: Sequence[_Stored], samples: SampleReader) -> list[StoredSpan]:
    """The spans of stored files whose samples equal those of the new file, in the order of the new file."""
    worth = [tensor for tensor in tensors if tensor.size >= _SMALL_TENSOR_BYTES]
    spans: list[StoredSpan] = []
    for chosen in (worth[:_FIRST], worth[_FIRST:]):
        places = [_sampled(tensor) for tensor in chosen]
        received = iter(samples.read([(start, start + length) for place in places for start, length in place]))
        for tensor, place in zip(chosen, places, strict=True):
            content = [(start, next(received)) for start, _ in place]
            spans += _matching(tensor, content, stored)
        if not spans:
            break
    return sorted(spans, key=lambda span: span.start)


def _sampled(tensor: ReusableTensor) -> list[tuple[int, int]]:
    """(byte of the file, length) of the samples of a tensor, at places that are spread over it."""
    count = min(_MAX_SAMPLES, 1 + tensor.size // _BYTES_FOR_A_SAMPLE)
    part = tensor.size // count
    generator = random.Random(tensor.name)  # noqa: S311 (no secret)
    starts = [number * part + generator.randrange(part - _SAMPLE_BYTES) for number in range(count)]
    return [(tensor.start + start, _SAMPLE_BYTES) for start in starts]


def _matching(
    tensor: ReusableTensor, samples: Sequence[tuple[int, bytes]], stored: Sequence[_Stored]
) -> list[StoredSpan]:
    for number, offset in tensor.copies:
        source = stored[number].source
        if all(source.read_at(offset + start - tensor.start, len(data)) == data for start, data in samples):
            return [StoredSpan(tensor.start, tensor.size, source.path, offset)]
    return []
