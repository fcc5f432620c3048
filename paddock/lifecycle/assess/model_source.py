"""List the GGUF models of a source, and read the audited header of one of them.

A source is a local file or directory, or a revision on the Hub. The header of a file is read from the nearest copy: the
volume, else the remote store, else the Hub, of which only the first megabytes are requested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from paddock.engine.facts import knows_architecture
from paddock.engine.oracle import Memory, measure_header
from paddock.engine.parameters import Parameters
from paddock.errors import (
    CorruptFile,
    EngineCrashed,
    FileNotInRevision,
    ModelRejected,
    NoGguf,
    StoreRefused,
    StoreUnavailable,
    TransferInterrupted,
    TransferRefused,
)
from paddock.gguf.reader import ByteSource, FileSource, read_header
from paddock.lifecycle.assess.audit import require_accepted
from paddock.lifecycle.assess.source_argument import HubSource, parse_source
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.revisions import list_revision
from paddock.model.artifact import Listing, RepositoryFile, SnapshotFile
from paddock.model.finding import Finding, Severity
from paddock.model.names import printable
from paddock.model.quantization import GgufSet, group_shards, local_files, rank_models_top_first, split_count
from paddock.model.reference import Variant
from paddock.model.variants import name_variants
from paddock.planning.file_selection import AUTO, BEST, find_variant
from paddock.planning.footprint import Footprint, footprint
from paddock.transfer.ranges import RangeReader
from paddock.validation.audit import ModelFacts, audit_set
from paddock.validation.compatibility import EngineRequirements, engine_requirements

ShardOpener = Callable[[GgufSet], AbstractContextManager[Sequence[ByteSource]]]
"""Opens all shards of a model, in order."""
_FileOpener = Callable[[RepositoryFile], AbstractContextManager[ByteSource]]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The GGUF models of a source, best first by their names, and the names of their variants.

    `all_sets` are all GGUF files of the source, projectors among them. `openers` open a model at each place that may
    have it, the nearest first. The last one is the origin: a copy of ours may be damaged, and that one is not ours.
    """

    name: str
    sets: tuple[GgufSet, ...]
    all_sets: tuple[GgufSet, ...]
    names: Mapping[GgufSet, Variant]
    openers: tuple[ShardOpener, ...]

    def matching(self, quantization: str) -> tuple[GgufSet, ...]:
        """The models that a variant, a file or a quantization names, or all for `auto` and `best`. Raises
        FileNotInRevision where there are none."""
        if quantization in {AUTO, BEST}:
            return self.sets
        found, _ = find_variant(self.all_sets, self.names, quantization)
        models = tuple(model for model in self.sets if model in found)
        if not models:
            variants = ", ".join(sorted(self.names[model] for model in self.sets))
            raise FileNotInRevision(f"{self.name} has no {printable(quantization)}", cure=f"use one of {variants}")
        return models


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """The audited headers of a model's shards, and the facts in them.

    `shards` are (the bytes up to the tensor data, the file's size in bytes). `misnamed`: the file's name states another
    quantization than its header. `bytes_read` is how much of the files was read for all of this.
    """

    model: GgufSet
    facts: ModelFacts
    misnamed: bool
    needs: EngineRequirements
    footprint: Footprint
    shards: tuple[tuple[bytes, int], ...]
    bytes_read: int

    @property
    def quantization(self) -> str | None:
        """As the name states it; as the header does where the name is wrong or states none."""
        return self.facts.quantization if self.misnamed else self.model.quantization or self.facts.quantization

    def predict_memory(self, parameters: Sequence[Parameters]) -> list[Memory]:
        """The memory that the engine would allocate with each of the parameters.

        Raises as `engine.oracle.measure_header`, and ModelRejected for a header that kills the engine by a signal.
        """
        try:
            return measure_header(self.shards, parameters)
        except EngineCrashed as error:
            if not error.by_signal:
                raise
            cure = "use another file, or a newer llama-cpp-python; where sound models fail too, its build is faulty"
            rejected = ModelRejected(
                f"{printable(self.model.first)} is rejected by compatibility.engine: {error.message}", cure=cure
            )
            where = self.model.first
            rejected.findings = (Finding("compatibility.engine", Severity.REJECT, error.message, where, cure),)
            raise rejected from error


def read_model_header(source: ModelSource, model: GgufSet) -> ModelHeader:
    """Read and audit the headers of a model. Raises ModelRejected, and the errors of the Hub and the transfer."""
    *copies, origin = source.openers
    for number, copy in enumerate(copies):
        try:
            return _read_header(source.name, model, copy)
        except (ModelRejected, CorruptFile, TransferRefused):  # a damaged copy; repairing it is not a preflight's task
            continue
        except (StoreUnavailable, StoreRefused, TransferInterrupted):
            if number == 0:
                raise
    return _read_header(source.name, model, origin)


def _read_header(name: str, model: GgufSet, open_shards: ShardOpener) -> ModelHeader:
    with open_shards(model) as shards:
        audit = audit_set(shards, names=model.paths, knows_architecture=knows_architecture)
        require_accepted(name, audit.verdict, audit.findings)
        headers = [read_header(shard) for shard in shards]
        bytes_read = sum(shard.bytes_read if isinstance(shard, RangeReader) else 0 for shard in shards)
    if audit.model is None:
        raise AssertionError("an accepted audit has a model")
    tensors = [tensor for header in headers for tensor in header.tensors]
    return ModelHeader(
        model=model,
        facts=audit.model,
        misnamed=headers[0].integer("general.file_type") is not None
        and any(finding.rule == "gguf.model.quantization-name" for finding in audit.findings),
        needs=engine_requirements(headers[0], tensors),
        footprint=footprint(headers[0], tensors),
        shards=tuple((header.prefix[: header.data_offset], header.size) for header in headers),
        bytes_read=bytes_read or audit.bytes_read,
    )


def source_from_argument(clients: Clients, text: str) -> ModelSource:
    """The models of a SOURCE argument (`source_argument`). Raises NoGguf, NoSuchFile, UnsafeName, FileNotInRevision and
    the Hub's errors."""
    source = parse_source(text)
    if not isinstance(source, HubSource):
        return _local_source(source)
    listing = list_revision(clients, source.model, source.ref, variant=source.variant)
    files = () if source.file is None else (source.file,)
    return source_from_listing(clients, listing, files=files, variant=source.variant)


def source_from_listing(
    clients: Clients, listing: Listing, *, files: Sequence[str] = (), variant: Variant | None = None
) -> ModelSource:
    """The models of a resolved revision; with `files` those that hold one of them, with `variant` that one. Raises
    NoGguf and FileNotInRevision."""
    name = f"{listing.model}@{listing.revision[:8]}"
    all_sets = group_shards((file.path, file.size) for file in listing.files)
    names = name_variants(all_sets, listing.variants)
    models = rank_models_top_first((file.path, file.size) for file in listing.files)
    if files:
        models = [model for model in models if any(path in files for path in model.paths)]
    if not models:
        what = f" {printable(files[0])}" if files else ""
        raise NoGguf(f"{name} has no GGUF model{what}", cure="see its files")
    if variant:
        found, _ = find_variant(all_sets, names, variant)
        models = [model for model in models if model in found]
        if not models:
            variants = ", ".join(sorted(names.values()))
            raise FileNotInRevision(f"{name} has no {printable(variant)}", cure=f"use one of {variants}")

    def from_hub(file: RepositoryFile) -> AbstractContextManager[ByteSource]:
        return RangeReader(clients.hub.file(listing.model, listing.revision, file), stall_s=clients.settings.stall_s)

    def from_remote(file: RepositoryFile) -> AbstractContextManager[ByteSource]:
        if file.sha256 and clients.remote is not None and clients.remote.has_blob(file.sha256, file.size):
            stored = SnapshotFile(path=file.path, size=file.size, sha256=file.sha256)
            return RangeReader(clients.remote.source(stored), stall_s=clients.settings.stall_s)
        return from_hub(file)

    def from_volume(file: RepositoryFile) -> AbstractContextManager[ByteSource]:
        if file.sha256 and clients.volume.has_blob(file.sha256, file.size):
            return FileSource(clients.volume.blob_path(file.sha256))
        return from_remote(file)

    places = (from_volume, from_hub) if clients.remote is None else (from_volume, from_remote, from_hub)
    openers = tuple(_shard_opener(listing, open_file) for open_file in places)
    return ModelSource(f"{listing.model}@{listing.revision}", tuple(models), tuple(all_sets), names, openers)


def _shard_opener(listing: Listing, open_file: _FileOpener) -> ShardOpener:
    by_path = {file.path: file for file in listing.files}

    @contextmanager
    def open_shards(model: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(open_file(by_path[path])) for path in model.paths]

    return open_shards


def _local_source(path: Path) -> ModelSource:
    directory = path if path.is_dir() else path.parent
    if path.is_dir():
        models = rank_models_top_first(local_files(directory))
    elif split_count(path.name) > 1:
        siblings = ((file.name, file.stat().st_size) for file in directory.iterdir() if file.is_file())
        models = [model for model in rank_models_top_first(siblings) if path.name in model.paths]
    else:  # the directory may be large, and holds no other part of the model
        models = [GgufSet((path.name,), path.stat().st_size)]
    if not models:
        raise NoGguf(f"{directory} holds no GGUF", cure="give a .gguf file, or the directory of one")

    @contextmanager
    def open_shards(model: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(FileSource(directory / name)) for name in model.paths]

    return ModelSource(str(path), tuple(models), tuple(models), name_variants(models), (open_shards,))
