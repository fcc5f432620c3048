"""Quantizations by their names, and which GGUF of several is the best.

The order of preference is fixed: Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S, then whatever is largest. A file is known
by its name alone here; what its header says is the audit's to compare. Unsloth's dynamic kinds (`UD-Q8_K_XL`) are kinds
of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from paddock.errors import MissingShard, NoGguf, NoPermission, NoSuchFile

PREFERRED = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S")

_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?("
    r"IQ[1-4]_(?:XXS|XS|NL|S|M)|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|"
    r"Q[2-8]_K_(?:XXL|XL|L|M|S)|Q[2-8]_K|Q[45]_[01]|Q8_0|Q1_0|Q2_0|"
    r"BF16|F16|F32|FP16|FP32"
    r")(?![A-Za-z0-9]|_[A-Za-z0-9])",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GgufSet:
    """One model as a repository or directory holds it: one GGUF, or all shards of a split one in order.

    `first` is what the engine is given; `declared` how many shards the names declare; `size` the sum of those that are
    there, in bytes.
    """

    paths: tuple[str, ...]
    size: int
    declared: int = 1

    @property
    def first(self) -> str:
        return self.paths[0]

    @property
    def quantization(self) -> str | None:
        return quantization_of(self.first)

    @property
    def is_projector(self) -> bool:
        return is_projector(self.first)

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the shards that are declared and not there."""
        match = _SPLIT.fullmatch(self.first)
        if match is None:
            return ()
        here = {split_number(path) for path in self.paths}
        extension = self.first[match.end("count") :]
        return tuple(
            f"{match['stem']}-{number:05d}-of-{self.declared:05d}{extension}"
            for number in range(1, self.declared + 1)
            if number not in here
        )


def quantization_of(path: str) -> str | None:
    """The quantization that a path states, in the field's spelling (`Q4_K_M`, `UD-Q8_K_XL`), or None.

    The last one in the file's name counts; where it has none, that of its directory: `Q8_0/model-00001-of-00002.gguf`.
    """
    pure = PurePosixPath(path)
    for part in (pure.name, pure.parent.name):
        found = list(_QUANTIZATION.finditer(part))
        if found:
            text = found[-1].group(0).upper()
            return {"FP16": "F16", "FP32": "F32"}.get(text, text)
    return None


def is_projector(path: str) -> bool:
    """Whether the name is that of a multimodal projector, which is no language model."""
    return "mmproj" in PurePosixPath(path).name.lower()


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def split_number(path: str) -> int:
    """The number of a shard in its name, from 1; 1 for a file that is not split."""
    match = _SPLIT.fullmatch(path)
    return int(match["number"]) if match else 1


def stem_of(path: str) -> str:
    """The path without `.gguf` and without the suffix of a shard."""
    match = _SPLIT.fullmatch(path)
    if match:
        return match["stem"]
    return path[: -len(".gguf")] if is_gguf(path) else path


def split_count(path: str) -> int:
    """How many shards the name of a file declares; 1 for a file that is not split."""
    match = _SPLIT.fullmatch(path)
    return int(match["count"]) if match else 1


def group_shards(files: Iterable[tuple[str, int]]) -> list[GgufSet]:
    """Put (path, size in bytes) of GGUF files together into models, projectors among them; other files are left out.
    Sorted by first path."""
    shards: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for path, size in files:
        if not is_gguf(path):
            continue
        match = _SPLIT.fullmatch(path)
        # the engine finds shards by the exact stem, so case matters here
        key = (match["stem"], int(match["count"])) if match else (path, 0)
        shards.setdefault(key, []).append((path, size))
    sets = []
    for (_, count), files_of_one in shards.items():
        # a number that the count excludes is no shard, unless all are so: then every shard is missing
        sound = [member for member in files_of_one if 1 <= split_number(member[0]) <= max(count, 1)]
        members = sorted(sound or files_of_one, key=lambda member: (split_number(member[0]), member[0]))
        sets.append(GgufSet(tuple(path for path, _ in members), sum(size for _, size in members), max(count, 1)))
    return sorted(sets, key=lambda one: one.first)


def rank_models(sets: Iterable[GgufSet]) -> list[GgufSet]:
    """The language models among `sets`, best first. Ties go to what lies nearer the top, then to the larger, then to
    the name."""
    return sorted((one for one in sets if not one.is_projector), key=lambda one: rank_key(one.quantization, one)[1:])


def rank_key(quantization: str | None, one: GgufSet) -> tuple[bool, int, int, int, str]:
    """The place in the order of preference of a model in a quantization, the best first; what lies at the top of a
    directory comes before all below it."""
    below = "/" in one.first
    if quantization in PREFERRED:
        return (below, PREFERRED.index(quantization), one.first.count("/"), -one.size, one.first)
    return (below, len(PREFERRED), 0, -one.size, one.first)


def get_gguf_file_path(model_path: Path) -> Path:
    """The best GGUF in a directory: by the order of preference, then the largest; the first shard of a split model.

    The top of the directory counts before its subdirectories. A projector (`mmproj*`) is never the answer. Raises
    NoGguf (a FileNotFoundError) that names the directory when there is none, and MissingShard when the best is not
    whole.
    """
    files = local_files(model_path)
    best = next(iter(rank_models_top_first(files)), None)
    if best is None:
        others = sorted({PurePosixPath(path).suffix or path for path, _ in files})[:6]
        has = f"it has {', '.join(others)}" if others else "it is empty"
        raise NoGguf(f"no GGUF model in {model_path}: {has}", cure="pull a repository that holds a .gguf file")
    if best.missing:
        raise MissingShard(
            f"the split model {best.first} in {model_path} lacks {', '.join(best.missing[:3])}"
            f" ({len(best.missing)} of {best.declared} shards missing)",
            cure="pull the model again",
        )
    return model_path / best.first


def rank_models_top_first(files: Iterable[tuple[str, int]]) -> list[GgufSet]:
    """As `ranked`, with everything at the top of a directory before everything below it."""
    ordered = rank_models(group_shards(files))
    return sorted(ordered, key=lambda one: "/" in one.first)


def local_files(directory: Path) -> list[tuple[str, int]]:
    """The regular files below a directory as (relative POSIX path, size in bytes), sorted; names that begin with a dot
    are left out.

    Raises NoSuchFile or NoPermission.
    """
    try:
        if not directory.is_dir():
            raise NoSuchFile(f"{directory} is not a directory", cure="give the directory of a model")
        found = []
        for path in directory.rglob("*"):
            relative = path.relative_to(directory)
            if not any(part.startswith(".") for part in relative.parts) and path.is_file():
                found.append((relative.as_posix(), path.stat().st_size))
    except PermissionError as error:
        raise NoPermission(f"{error.filename or directory} may not be read", cure="correct its permissions") from None
    return sorted(found)
