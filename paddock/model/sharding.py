"""Whether a model in a directory is one file or several, in each of the formats that the Hub has.

A *shard* is one file of several that make one model. An *index* is the JSON that lists the shards of a SafeTensors or
PyTorch model; without one the names declare them (`model-00001-of-00003.safetensors`). What is in the files is not
read: Paddock runs GGUF alone, and only recognises the others.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Final

from paddock.errors import ConflictingConfiguration, CorruptFile, MissingShard, NoPermission, UnsafeName
from paddock.model.names import parse_repository_path
from paddock.model.quantization import local_files, rank_models_top_first

_FAMILIES: Final = (("model", "safetensors"), ("pytorch_model", "bin"))
_LARGEST_INDEX_BYTES: Final = 64 << 20
_PULL = "pull the model again"


def check_model_sharding(model_path: Path) -> tuple[bool, int, list]:  # type: ignore[type-arg]  # this signature is public and fixed
    """Whether the model is sharded, how many shards it declares, and its files: sorted names relative to `model_path`.

    One file is `(False, 1, [file])`, no model at all `(False, 0, [])`. A GGUF counts before an index, an index before
    numbered names, and of several GGUFs the best (`get_gguf_file_path`). Raises MissingShard, which names it, for a
    shard that is declared and not there; UnsafeName for an index that names a file outside the directory; CorruptFile
    for an index that is none; ConflictingConfiguration for names that declare different counts; and NoSuchFile without
    a directory.
    """
    sized = local_files(model_path)
    files = [path for path, _ in sized]
    best = next(iter(rank_models_top_first(sized)), None)
    if best is not None:
        if best.missing:
            raise _missing(model_path, best.missing, best.declared)
        # a split that declares one part is a model in one file
        return best.declared > 1, best.declared, sorted(best.paths)
    here = frozenset(files)
    families = [declared for stem, extension in _FAMILIES if (declared := _family(model_path, here, stem, extension))]
    # a repository may hold the index of one family, and the weights of the other
    declared = next((names for names in families if here.intersection(names)), next(iter(families), []))
    missing = tuple(name for name in declared if name not in here)
    if missing:
        raise _missing(model_path, missing, len(declared))
    return len(declared) > 1, len(declared), sorted(declared)


def _family(model_path: Path, files: frozenset[str], stem: str, extension: str) -> list[str]:
    """The files that one family declares: by its index, else by the numbers in its names, else its one file."""
    index = f"{stem}.{extension}.index.json"
    if index in files:
        return sorted(_declared(model_path / index))
    numbered = re.compile(rf"(?P<stem>(?:.*/)?{stem})-\d{{5}}-of-(?P<count>\d{{5}})\.{extension}")
    sets = {(match["stem"], int(match["count"])) for path in files if (match := numbered.fullmatch(path))}
    if sets:
        start, count = min(sets, key=lambda one: (one[0].count("/"), one))
        if len([one for one in sets if one[0] == start]) > 1:
            message = f"the shards {start}-*.{extension} in {model_path} declare different counts"
            raise ConflictingConfiguration(message, cure=f"remove the directory, and {_PULL}")
        return [f"{start}-{number:05d}-of-{count:05d}.{extension}" for number in range(1, count + 1)]
    whole = f"{stem}.{extension}"
    return [whole] if whole in files else []


def _declared(index: Path) -> set[str]:
    """The files that an index names, each a safe name inside the directory of the index."""
    try:
        with index.open("rb") as file:
            data = file.read(_LARGEST_INDEX_BYTES + 1)
        weight_map = json.loads(data)["weight_map"] if len(data) <= _LARGEST_INDEX_BYTES else None
    except PermissionError:
        raise NoPermission(f"{index} may not be read", cure="correct its permissions") from None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        weight_map = None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(path, str) for path in weight_map.values())
    ):
        raise CorruptFile(f"{index} is no index: a weight_map of tensors and file names is expected", cure=_PULL)
    declared = set(weight_map.values())
    for path in declared:
        parse_repository_path(path)
        if PurePosixPath(path).suffix.lower() not in {".safetensors", ".bin"}:
            raise UnsafeName(f"the index {index.name} names {path[:200]!r}, which holds no weights", cure=_PULL)
    return declared


def _missing(model_path: Path, missing: tuple[str, ...], declared: int) -> MissingShard:
    names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return MissingShard(f"the model in {model_path} lacks {names} ({len(missing)} of {declared} shards)", cure=_PULL)
