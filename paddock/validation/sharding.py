"""Determine whether a model in a directory is sharded, for GGUF, SafeTensors and PyTorch models.

A *shard* is one of several files that form a model. An *index* is the JSON file that lists the shards of a SafeTensors
or PyTorch model; without it, file names declare them (`model-00001-of-00003.safetensors`). The contents of shards are
not read: Paddock runs only GGUF models, and merely recognizes the other formats.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final

from paddock.errors import ConflictingConfiguration, CorruptFile, MissingShard, NoPermission, UnsafeName
from paddock.gguf.directory import best_model
from paddock.model.names import parse_repository_path
from paddock.model.quantization import group_shards, local_files
from paddock.untrusted.files import read_regular
from paddock.untrusted.json_text import parse_object

_FORMATS: Final = (("model", "safetensors"), ("pytorch_model", "bin"))
_MAX_INDEX_BYTES: Final = 64 << 20
_PULL = "pull the model again"


def check_model_sharding(model_path: Path) -> tuple[bool, int, list]:  # type: ignore[type-arg]  # this signature is public and fixed
    """Determine whether the model is sharded, the number of its shards, and its files.

    Returns:
        (is sharded, number of declared shards, sorted file names relative to `model_path`). A model of one file gives
        `(False, 1, [file])`, a directory without a model `(False, 0, [])`. GGUF models take precedence, and the best of
        several counts (see `get_gguf_file_path`); next comes a model with an index, then one with numbered names.

    Raises:
        MissingShard: A declared shard does not exist; the message names it.
        UnsafeName: The index names a file outside of the directory, or one that holds no weights.
        CorruptFile: The index is not valid.
        ConflictingConfiguration: The names of shards declare different counts.
        NoSuchFile, NoPermission: `model_path` is not a directory, or not readable.
    """
    sized = local_files(model_path)
    files = [path for path, _ in sized]
    best = best_model(model_path, group_shards(sized))
    if best is not None:
        if best.missing:
            raise _missing(model_path, best.missing, best.declared)
        # a split model that declares one shard is a model in one file
        return best.declared > 1, best.declared, sorted(best.paths)
    existing = frozenset(files)
    by_format = [names for stem, extension in _FORMATS if (names := _declared(model_path, existing, stem, extension))]
    # a repository may have the index of one format, and the weights of the other
    declared = next((names for names in by_format if existing.intersection(names)), next(iter(by_format), []))
    missing = tuple(name for name in declared if name not in existing)
    if missing:
        raise _missing(model_path, missing, len(declared))
    return len(declared) > 1, len(declared), sorted(declared)


def _declared(model_path: Path, files: frozenset[str], stem: str, extension: str) -> list[str]:
    """The files of the model in one format: from its index, else from numbered file names, else its single file."""
    index = f"{stem}.{extension}.index.json"
    if index in files:
        return sorted(_read_index(model_path / index))
    numbered = re.compile(rf"(?P<stem>(?:.*/)?{stem})-\d{{5}}-of-(?P<count>\d{{5}})\.{extension}")
    sets = {(match["stem"], int(match["count"])) for path in files if (match := numbered.fullmatch(path))}
    if sets:
        start, count = min(sets, key=lambda found: (found[0].count("/"), found))
        if len([other for other, _ in sets if other == start]) > 1:
            message = f"the shards {start}-*.{extension} in {model_path} declare different counts"
            raise ConflictingConfiguration(message, cure=f"remove the directory, and {_PULL}")
        return [f"{start}-{number:05d}-of-{count:05d}.{extension}" for number in range(1, count + 1)]
    whole = f"{stem}.{extension}"
    return [whole] if whole in files else []


def _read_index(index: Path) -> set[str]:
    """The files that an index names. They are validated: relative paths inside of the directory of the index."""
    try:
        data = read_regular(index, max_bytes=_MAX_INDEX_BYTES, follow=True)
        weight_map = parse_object(data, max_bytes=_MAX_INDEX_BYTES, strict=False)["weight_map"]
    except PermissionError:
        raise NoPermission(f"no permission to read {index}", cure="correct its permissions") from None
    except (OSError, ValueError, KeyError):  # UnusableContent is a ValueError
        weight_map = None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(path, str) for path in weight_map.values())
    ):
        raise CorruptFile(
            f"{index} is not a valid index: it must have a weight_map from tensors to file names", cure=_PULL
        )
    declared = set(weight_map.values())
    for path in declared:
        parse_repository_path(path)
        if PurePosixPath(path).suffix.lower() not in {".safetensors", ".bin"}:
            raise UnsafeName(f"the index {index.name} names {path[:200]!r}, which is not a file of weights", cure=_PULL)
    return declared


def _missing(model_path: Path, missing: tuple[str, ...], declared: int) -> MissingShard:
    names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return MissingShard(f"the model in {model_path} lacks {names} ({len(missing)} of {declared} shards)", cure=_PULL)
