"""List the GGUF models of a source, and open them at the nearest place that has them.

A source is a local file or directory, or a revision on the Hub. The header of a file is read from the nearest copy: the
volume, else the remote store, else the Hub, of which only the first megabytes are requested.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from paddock.engine.facts import knows_architecture
from paddock.errors import (
    CorruptFile,
    FileNotInRevision,
    MalformedGguf,
    ModelRejected,
    NoGguf,
    NotGguf,
    StoreRefused,
    StoreUnavailable,
    TransferInterrupted,
    TransferRefused,
)
from paddock.gguf.head import Head, head_of, read_head
from paddock.gguf.reader import ByteSource, FileSource, read_header
from paddock.gguf.survey import MAX_HEADS, Survey, survey, survey_names
from paddock.lifecycle.assess.header_cache import read_remote
from paddock.lifecycle.assess.source_argument import HubSource, parse_source
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.locate import snapshot_at
from paddock.lifecycle.revisions import list_revision
from paddock.model.artifact import Listing, RepositoryFile, SnapshotFile
from paddock.model.names import printable
from paddock.model.quantization import GgufSet, group_shards, is_raw_part, local_files, split_count, stem_of
from paddock.model.reference import Variant
from paddock.model.source import Source
from paddock.model.variants import name_variants, variant_from_path
from paddock.planning.file_selection import find_variant
from paddock.untrusted.files import list_directory

T = TypeVar("T")
ShardOpener = Callable[[GgufSet], AbstractContextManager[Sequence[ByteSource]]]
"""Opens all shards of a model, in order."""
_FileOpener = Callable[[RepositoryFile], AbstractContextManager[ByteSource]]


@dataclass(slots=True)
class Traffic:
    """The bytes that came over the network for a source's headers so far."""

    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The GGUF models of a source, and the names of their variants.

    `survey` tells the models of the main family from everything else. `openers` open a model at each place that may
    have it, the nearest first. The last one is the origin: a copy of ours may be damaged, and that one is not ours.
    `raw_parts` are files that would have to be joined before they are a model. `requested`: the models were requested
    by name, and no others will do. `connections`: so many requests for headers may run at once.
    """

    name: str
    all_sets: tuple[GgufSet, ...]
    survey: Survey
    names: Mapping[GgufSet, Variant]
    openers: tuple[ShardOpener, ...]
    traffic: Traffic = field(default_factory=Traffic)
    raw_parts: tuple[str, ...] = ()
    requested: bool = False
    max_heads: int = MAX_HEADS
    connections: int = 1

    @property
    def sets(self) -> tuple[GgufSet, ...]:
        """The models of the main family, best first by their names; or those that were requested by name."""
        return self.survey.models

    def without(self, broken: Collection[GgufSet]) -> ModelSource:
        """This source as if it did not have some files. The names stay the same."""
        remaining = [model for model in self.all_sets if model not in broken]
        return replace(self, survey=_survey(self.openers, remaining, max_heads=self.max_heads))

    def with_projectors(self) -> ModelSource:
        """This source with the heads of its projectors and of a model, as far as they can be read."""
        heads = dict(self.survey.heads)
        for model in (*self.survey.projectors, *self.survey.models[:1]):
            if model not in heads and (model in self.survey.projectors or self.survey.main is None):
                with suppress(NotGguf, MalformedGguf):
                    heads[model] = read_model_head(self.openers, model)
        main = self.survey.main or next((heads[model].family for model in self.survey.models if model in heads), None)
        return replace(self, survey=replace(self.survey, heads=heads, main=main))


def passed_over_files(source: ModelSource, reasons: Mapping[GgufSet, str]) -> tuple[tuple[str, str], ...]:
    """(file, reason) for each file of a source that is no candidate, sorted by file."""
    rows = [(model.first, reason) for model, reason in reasons.items()]
    rows += [(path, "a raw part of a file: join the parts first") for path in source.raw_parts]
    return tuple(sorted(rows))


def read_model_head(openers: Sequence[ShardOpener], model: GgufSet) -> Head:
    """The head of a model's first file. Raises NotGguf, MalformedGguf, and the errors of the Hub and the transfer."""

    def read(copy: ShardOpener) -> Head:
        with copy(GgufSet(model.paths[:1], model.size)) as (first,):
            return read_head(first)

    return from_nearest(openers, read, without_store=True)


def from_nearest(openers: Sequence[ShardOpener], read: Callable[[ShardOpener], T], *, without_store: bool = False) -> T:
    """The result of `read` for the nearest copy that is there and sound. Raises the errors of the origin, and those of
    the remote store unless it may be done without (`without_store`)."""
    *copies, origin = openers
    for number, copy in enumerate(copies):
        try:
            return read(copy)
        except (ModelRejected, CorruptFile, NotGguf, MalformedGguf, TransferRefused):
            continue  # a damaged copy; repairing it is not a preflight's task
        except (StoreUnavailable, StoreRefused, TransferInterrupted) as error:
            never_sends = isinstance(error, TransferInterrupted) and error.wrong_answers
            if number == 0 and not without_store and not never_sends:
                raise
    return read(origin)


def _survey(openers: Sequence[ShardOpener], sets: Sequence[GgufSet], *, max_heads: int) -> Survey:
    """Survey files by their headers, of at most `max_heads` series of files."""

    def exact(model: GgufSet) -> Head:
        def read(copy: ShardOpener) -> Head:
            with copy(model) as shards:
                headers = [read_header(shard) for shard in shards]
            return head_of(headers[0], parameters=sum(tensor.elements for one in headers for tensor in one.tensors))

        return from_nearest(openers, read, without_store=True)

    return survey(
        sets,
        read_head=lambda model: read_model_head(openers, model),
        read_exact=exact,
        knows_architecture=knows_architecture,
        max_heads=max_heads,
    )


def source_from_argument(clients: Clients, text: str) -> ModelSource:
    """The models of a SOURCE argument (`source_argument`). Raises NoGguf, NoSuchFile, UnsafeName, FileNotInRevision and
    the Hub's errors."""
    source = parse_source(text, clients.hub.endpoint)
    if not isinstance(source, HubSource):
        return _stored_source(clients, source) or _local_source(source)
    listing = list_revision(clients, source.model, source.ref, variant=source.variant)
    files = () if source.file is None else (source.file,)
    return source_from_listing(clients, listing, files=files, variant=source.variant)


def source_from_listing(
    clients: Clients, listing: Listing, *, files: Sequence[str] = (), variant: Variant | None = None
) -> ModelSource:
    """The models of a resolved revision; with `files` those that hold one of them, with `variant` that one. Raises
    NoGguf and FileNotInRevision."""
    name = f"{listing.model}@{listing.revision[:8]}"
    sets = group_shards((file.path, file.size) for file in listing.files)
    traffic = Traffic()
    openers = _openers(clients, listing, traffic)
    raw_parts = tuple(sorted(file.path for file in listing.files if is_raw_part(file.path)))
    if not sets:
        raise _no_gguf(name, raw_parts)
    surveyed = survey_names(sets) if files else _survey(openers, sets, max_heads=MAX_HEADS)
    names = name_variants(surveyed.models, surveyed.siblings, published=listing.variants)
    models = surveyed.models
    if files:
        models = tuple(model for model in sets if any(path in files for path in model.paths))
    elif variant:
        found, _ = find_variant(surveyed, names, variant)
        models = tuple(found)
        if not models:
            variants = ", ".join(sorted(names[model] for model in surveyed.models))
            raise FileNotInRevision(f"{name} has no {printable(variant)}", cure=f"use one of {variants}")
    if not models:
        raise NoGguf(f"{name} has no GGUF model{f' {printable(files[0])}' if files else ''}", cure="see its files")
    names |= {model: variant_from_path(model) for model in sets if model not in names}
    return ModelSource(
        name=f"{listing.model}@{listing.revision}",
        all_sets=tuple(sets),
        survey=replace(surveyed, models=models),
        names=names,
        openers=openers,
        traffic=traffic,
        raw_parts=raw_parts,
        requested=bool(files) or variant is not None,
        connections=clients.settings.connections,
    )


def _no_gguf(name: str, raw_parts: Sequence[str]) -> NoGguf:
    if not raw_parts:
        return NoGguf(f"{name} has no GGUF model", cure="see its files")
    return NoGguf(
        f"{name} has no GGUF model, only raw parts of one: {', '.join(map(printable, raw_parts[:4]))}",
        cure="download the parts with `hf download`, join them in order (`cat PART1 PART2 > model.gguf`), then use"
        " `paddock inspect model.gguf`",
    )


def _openers(clients: Clients, listing: Listing, traffic: Traffic) -> tuple[ShardOpener, ...]:
    on_hub: dict[str, Source] = {}

    @contextmanager
    def remote(source: Source, *, fresh: bool = False) -> Iterator[ByteSource]:
        with read_remote(clients.settings, source, fresh=fresh) as reader:
            try:
                yield reader
            finally:
                traffic.received_bytes += reader.bytes_read

    def from_hub(file: RepositoryFile, *, fresh: bool = False) -> AbstractContextManager[ByteSource]:
        if file.path not in on_hub:  # it keeps the file's address
            on_hub[file.path] = clients.hub.file(listing.model, listing.revision, file)
        return remote(on_hub[file.path], fresh=fresh)

    def origin(file: RepositoryFile) -> AbstractContextManager[ByteSource]:
        return from_hub(file, fresh=True)  # a header in the cache may be what was refused before

    def from_remote(file: RepositoryFile) -> AbstractContextManager[ByteSource]:
        if file.sha256 and clients.remote is not None and clients.remote.has_blob(file.sha256, file.size):
            stored = SnapshotFile(path=file.path, size=file.size, sha256=file.sha256)
            return remote(clients.remote.source(stored))
        return from_hub(file)

    def from_volume(file: RepositoryFile) -> AbstractContextManager[ByteSource]:
        if file.sha256 and clients.volume.has_blob(file.sha256, file.size):
            return FileSource(clients.volume.blob_path(file.sha256))
        return from_remote(file)

    places = (from_volume, origin) if clients.remote is None else (from_volume, from_remote, origin)
    return tuple(_shard_opener(listing, open_file) for open_file in places)


def _shard_opener(listing: Listing, open_file: _FileOpener) -> ShardOpener:
    by_path = {file.path: file for file in listing.files}

    @contextmanager
    def open_shards(model: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(open_file(by_path[path])) for path in model.paths]

    return open_shards


def _stored_source(clients: Clients, path: Path) -> ModelSource | None:
    """The models of a snapshot of the volume, in whose directory `path` is. Its files are compared with its manifest,
    and what is not in that is not seen. None for other paths."""
    directory = path.resolve() if path.is_dir() else path.parent.resolve()
    for parent in (directory, *directory.parents):
        id = snapshot_at(clients, parent)
        manifest = clients.volume.snapshot(id) if id else None
        if manifest is not None:
            break
    else:
        return None
    inside = directory.relative_to(parent)
    wanted = (inside if path.is_dir() else inside / path.name).as_posix()
    files = [file for file in manifest.files if wanted in {".", file.path} or file.path.startswith(f"{wanted}/")]
    if split_count(path.name) > 1 and not path.is_dir():
        files = [file for file in manifest.files if stem_of(file.path) == stem_of(wanted)]
    sets = group_shards((file.path, file.size) for file in files)

    @contextmanager
    def open_shards(model: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with open_snapshot(clients, manifest) as opened, ExitStack() as stack:
            yield [stack.enter_context(FileSource(opened.directory / name)) for name in model.paths]

    return _source_of_sets(path, sets, open_shards, is_directory=path.is_dir())


def _local_source(path: Path) -> ModelSource:
    directory = path if path.is_dir() else path.parent
    if path.is_dir():
        sets = group_shards(local_files(directory))
    elif split_count(path.name) > 1:
        siblings = (
            (name, (directory / name).stat().st_size)
            for name in list_directory(directory)
            if (directory / name).is_file()
        )
        sets = [model for model in group_shards(siblings) if path.name in model.paths]
    else:  # the directory may be large, and holds no other part of the model
        sets = [GgufSet((path.name,), path.stat().st_size)]

    @contextmanager
    def open_shards(model: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(FileSource(directory / name)) for name in model.paths]

    return _source_of_sets(path, sets, open_shards, is_directory=path.is_dir())


def _source_of_sets(
    path: Path, sets: Sequence[GgufSet], open_shards: ShardOpener, *, is_directory: bool
) -> ModelSource:
    if not sets:
        raise NoGguf(f"{path} holds no GGUF", cure="give a .gguf file, or the directory of one")
    surveyed = _survey((open_shards,), sets, max_heads=len(sets)) if is_directory else Survey(tuple(sets))
    if not surveyed.models:
        raise NoGguf(f"{path} holds no GGUF model", cure="give a .gguf file, or the directory of one")
    names = name_variants(surveyed.models, surveyed.siblings)
    names |= {model: variant_from_path(model) for model in sets if model not in names}
    return ModelSource(str(path), tuple(sets), surveyed, names, (open_shards,), max_heads=len(sets))
