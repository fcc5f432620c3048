"""Find the best GGUF model in a local directory, by the headers of its files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from paddock.errors import MalformedGguf, MissingShard, NoGguf, NotGguf
from paddock.gguf import split
from paddock.gguf.head import Head, head_of, read_head
from paddock.gguf.header import Header
from paddock.gguf.kind import ModelKind, kind_of
from paddock.gguf.reader import FileSource, read_header
from paddock.gguf.rules import check_file
from paddock.gguf.survey import Survey, survey, survey_names
from paddock.model.finding import Severity
from paddock.model.quantization import GgufSet, group_shards, local_files

_MAX_HEADS = 1000


def get_gguf_file_path(model_path: Path) -> Path:
    """The best GGUF model in a directory: the first in the order of preference, or else the largest.

    Returns the path of its first shard if it is split. Models at the top of the directory are preferred to those in
    subdirectories. A file that is no language model by its header, or is broken, or belongs to another model than the
    main one (a draft model, a smaller sibling), is the answer only where there is nothing better. Where no header can
    be read, names alone decide.

    Raises:
        NoGguf: There is no GGUF model. This is a FileNotFoundError.
        MissingShard: A shard of the best model is missing.
        NoSuchFile, NoPermission: `model_path` is not a directory, or not readable.
    """
    files = local_files(model_path)
    best = best_model(model_path, group_shards(files))
    if best is None:
        suffixes = sorted({PurePosixPath(path).suffix or path for path, _ in files})[:6]
        contents = f"it has {', '.join(suffixes)}" if suffixes else "it is empty"
        raise NoGguf(f"no GGUF model in {model_path}: {contents}", cure="pull a repository that has a .gguf file")
    if best.missing:
        raise MissingShard(
            f"the split model {best.first} in {model_path} lacks {', '.join(best.missing[:3])}"
            f" ({len(best.missing)} of {best.declared} shards missing)",
            cure="pull the model again",
        )
    return model_path / best.first


def best_model(directory: Path, sets: Sequence[GgufSet]) -> GgufSet | None:
    """The best model among the GGUF files of a directory; None if there is none. Raises NoPermission."""
    remaining, first = list(sets), None
    while remaining:
        surveyed = survey_directory(directory, remaining)
        first = first or next(iter(surveyed.models), None)
        complete = [model for model in surveyed.models if not model.missing]
        if not surveyed.heads:
            return first
        sound = next((model for model in complete if _is_sound(directory, model)), None)
        if sound or not surveyed.siblings:
            return sound or first
        remaining = [model for model in remaining if model not in surveyed.models]
    return first


def survey_directory(directory: Path, sets: Sequence[GgufSet]) -> Survey:
    """Survey the GGUF files of a directory. Raises NoPermission."""
    if len([model for model in sets if not model.is_projector]) == 1:
        return survey_names(sets)

    def head(model: GgufSet) -> Head:
        with FileSource(directory / model.first) as source:
            return read_head(source)

    def exact(model: GgufSet) -> Head:
        headers = _headers(directory, model)
        return head_of(headers[0], parameters=sum(tensor.elements for header in headers for tensor in header.tensors))

    found = survey(sets, read_head=head, read_exact=exact, max_heads=_MAX_HEADS)
    return found if found.heads or len(found.broken) < len(sets) else survey_names(sets)


def local_kind(path: Path) -> ModelKind:
    """The kind of a local model, or of a split one by its first shard. Raises NotGguf, MalformedGguf, NoSuchFile and
    NoPermission."""
    with FileSource(path) as source:
        return kind_of(read_header(source))


def _headers(directory: Path, model: GgufSet) -> list[Header]:
    with ExitStack() as stack:
        return [read_header(stack.enter_context(FileSource(directory / path))) for path in model.paths]


def _is_sound(directory: Path, model: GgufSet) -> bool:
    """Whether the files are whole: neither truncated, nor joined, nor a shard without the others."""
    try:
        headers = _headers(directory, model)
    except (NotGguf, MalformedGguf):
        return False
    findings = [finding for header in headers for finding in check_file(header)]
    findings += split.check_set(headers, model.paths)
    return not any(finding.severity is Severity.REJECT for finding in findings)
