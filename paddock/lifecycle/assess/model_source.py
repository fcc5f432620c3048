"""The models that a source offers, and the header of one of them, wherever its bytes are.

A source is a local file or directory, or a revision on the Hub. Of a revision, what the volume or S3 has already is
read there: the Hub is asked for the first megabytes of what is nowhere else.
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
from paddock.lifecycle.assess.inspect import local_path, repository_of
from paddock.lifecycle.clients import Clients
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

Reach = Callable[[GgufSet], AbstractContextManager[Sequence[ByteSource]]]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The GGUF models of a source, best first by their names, with the `names` of their variants, and where their bytes
    are read: at the nearest place first, and at the last one nothing of ours can have damaged them. `all_sets` are
    those of the whole source, projectors among them."""

    name: str
    sets: tuple[GgufSet, ...]
    all_sets: tuple[GgufSet, ...]
    names: Mapping[GgufSet, Variant]
    places: tuple[Reach, ...]

    def named(self, quantization: str) -> tuple[GgufSet, ...]:
        """The models that a variant, a file or a quantization names, or all for `auto` and `best`. Raises
        FileNotInRevision where there are none."""
        if quantization in {AUTO, BEST}:
            return self.sets
        found, _ = find_variant(self.all_sets, self.names, quantization)
        asked = tuple(one for one in self.sets if one in found)
        if not asked:
            has = ", ".join(sorted(self.names[one] for one in self.sets))
            raise FileNotInRevision(f"{self.name} has no {printable(quantization)}", cure=f"use one of {has}")
        return asked


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """A model's audited headers, and what they say. `misnamed` says that the file's name states another quantization
    than its header; `bytes_read` were read of it to learn all this."""

    model: GgufSet
    facts: ModelFacts
    misnamed: bool
    needs: EngineRequirements
    footprint: Footprint
    shards: tuple[tuple[bytes, int], ...]
    bytes_read: int

    @property
    def quantization(self) -> str | None:
        """By the header where the name lies or says nothing."""
        return self.facts.quantization if self.misnamed else self.model.quantization or self.facts.quantization

    def ask(self, asked: Sequence[Parameters]) -> list[Memory]:
        """What the engine takes with each of the parameters.

        Raises as `engine.oracle.measure_header`, and ModelRejected for a header that the engine dies of.
        """
        try:
            return measure_header(self.shards, asked)
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


def read_model_header(offer: ModelSource, model: GgufSet) -> ModelHeader:
    """Read and audit the headers of a model. Raises ModelRejected, and the errors of the Hub and the transfer."""
    *copies, origin = offer.places
    for number, copy in enumerate(copies):  # one may be damaged: that is for others to mend
        try:
            return _open(offer.name, model, copy)
        except (ModelRejected, CorruptFile, TransferRefused):
            continue
        except (StoreUnavailable, StoreRefused, TransferInterrupted):
            if number == 0:
                raise
    return _open(offer.name, model, origin)


def _open(name: str, model: GgufSet, reach: Reach) -> ModelHeader:
    with reach(model) as sources:
        audit = audit_set(sources, names=model.paths, knows_architecture=knows_architecture)
        require_accepted(name, audit.verdict, audit.findings)
        headers = [read_header(one) for one in sources]
        read = sum(one.bytes_read if isinstance(one, RangeReader) else 0 for one in sources)
    if audit.model is None:
        raise AssertionError("an accepted audit has a model")
    tensors = [tensor for header in headers for tensor in header.tensors]
    return ModelHeader(
        model=model,
        facts=audit.model,
        misnamed=headers[0].integer("general.file_type") is not None
        and any(one.rule == "gguf.model.quantization-name" for one in audit.findings),
        needs=engine_requirements(headers[0], tensors),
        footprint=footprint(headers[0], tensors),
        shards=tuple((header.prefix[: header.data_offset], header.size) for header in headers),
        bytes_read=read or audit.bytes_read,
    )


def model_source_of(clients: Clients, source: str) -> ModelSource:
    """The models of a SOURCE (as `inspect` takes it). Raises NoGguf, NoSuchFile, UnsafeName and the Hub's errors."""
    path = local_path(source)
    if path is not None:
        return _local(path)
    wanted = repository_of(source)
    listing = clients.hub.listing(wanted.model, wanted.ref)
    return model_source_in(
        clients, listing, files=() if wanted.file is None else (wanted.file,), variant=wanted.variant
    )


def model_source_in(
    clients: Clients, listing: Listing, *, files: Sequence[str] = (), variant: Variant | None = None
) -> ModelSource:
    """The models of a revision, or those of them that hold one of `files`, or are a variant. Raises NoGguf and
    FileNotInRevision."""
    by_path = {one.path: one for one in listing.files}
    all_sets = group_shards((one.path, one.size) for one in listing.files)
    names = name_variants(all_sets, listing.variants)
    sets = rank_models_top_first((one.path, one.size) for one in listing.files)
    if files:
        sets = [one for one in sets if any(path in files for path in one.paths)]
    if not sets:
        what = f" {printable(files[0])}" if files else ""
        raise NoGguf(f"{listing.model}@{listing.revision[:8]} has no GGUF model{what}", cure="see its files")

    if variant:
        found, _ = find_variant(all_sets, names, variant)
        sets = [one for one in sets if one in found]
        if not sets:
            has = ", ".join(sorted(names.values()))
            raise FileNotInRevision(
                f"{listing.model}@{listing.revision[:8]} has no {printable(variant)}", cure=f"use one of {has}"
            )

    @contextmanager
    def near(one: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(_nearest(clients, listing, by_path[name])) for name in one.paths]

    @contextmanager
    def beyond(one: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(_beyond_volume(clients, listing, by_path[name])) for name in one.paths]

    @contextmanager
    def far(one: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(_on_hub(clients, listing, by_path[name])) for name in one.paths]

    places = (near, far) if clients.remote is None else (near, beyond, far)
    return ModelSource(f"{listing.model}@{listing.revision}", tuple(sets), tuple(all_sets), names, places)


def _nearest(clients: Clients, listing: Listing, file: RepositoryFile) -> AbstractContextManager[ByteSource]:
    """A file's bytes on the volume, else in S3, else on the Hub."""
    if file.sha256 and clients.volume.has_blob(file.sha256, file.size):
        return FileSource(clients.volume.blob_path(file.sha256))
    return _beyond_volume(clients, listing, file)


def _beyond_volume(clients: Clients, listing: Listing, file: RepositoryFile) -> AbstractContextManager[ByteSource]:
    """A file's bytes in S3, else on the Hub."""
    if file.sha256 and clients.remote is not None and clients.remote.has_blob(file.sha256, file.size):
        there = SnapshotFile(path=file.path, size=file.size, sha256=file.sha256)
        return RangeReader(clients.remote.source(there), stall_s=clients.settings.stall_s)
    return _on_hub(clients, listing, file)


def _on_hub(clients: Clients, listing: Listing, file: RepositoryFile) -> RangeReader:
    return RangeReader(clients.hub.file(listing.model, listing.revision, file), stall_s=clients.settings.stall_s)


def _local(path: Path) -> ModelSource:
    home = path if path.is_dir() else path.parent
    if path.is_dir():
        sets = rank_models_top_first(local_files(home))
    elif split_count(path.name) > 1:
        beside = ((other.name, other.stat().st_size) for other in home.iterdir() if other.is_file())
        sets = [one for one in rank_models_top_first(beside) if path.name in one.paths]
    else:  # what else lies there is not looked at: it may be much
        sets = [GgufSet((path.name,), path.stat().st_size)]
    if not sets:
        raise NoGguf(f"{home} holds no GGUF", cure="give a .gguf file, or the directory of one")

    @contextmanager
    def reach(one: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(FileSource(home / name)) for name in one.paths]

    return ModelSource(str(path), tuple(sets), tuple(sets), name_variants(sets), (reach,))
