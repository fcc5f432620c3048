"""Recognize quantizations in file names, group shards to models, and rank the models of a repository or directory.

The order of preference is fixed: Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S, then the largest. Only file names and
sizes are used; the audit compares the name with the header. Unsloth's dynamic quantizations (`UD-Q8_K_XL`) are
different from the plain ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from paddock.errors import BadSetting, NoPermission, NoSuchFile
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import list_directory

MAX_LOCAL_FILES = 200_000
"""Files and directories below a local directory of a model."""
PREFERRED = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S")

_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?("
    r"IQ[1-4]_(?:XXS|XS|NL|S|M)|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|"
    r"Q[2-8]_K_(?:XXL|XL|L|M|S)|Q[2-8]_K|Q[45]_[01]|Q8_0|Q1_0|Q2_0|"
    r"BF16|F16|F32|FP16|FP32"
    r")(?![A-Za-z0-9]|_[A-Za-z0-9])",
    re.IGNORECASE,
)
_LOOKS_QUANTIZED = re.compile(r"(?<![A-Za-z0-9])(?:UD-)?I?Q\d[A-Za-z0-9_]*(?![A-Za-z0-9])", re.IGNORECASE)
_TRIMMED = re.compile(r"^[-_. ]+|[-_. ]+$|(?<=[-_. ])[-_. ]+")
_RAW_PART = re.compile(
    r".+\.gguf[-_.](?:(?:part|split|chunk|piece)[-_.]?[a-z0-9]{1,6}|\d{1,4}|[a-z]{2})(?:[-_.]?of[-_.]?\d+)?",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GgufSet:
    """The files of one model in a repository or directory: one GGUF, or the shards of a split one in order.

    `declared` is the number of shards that the names declare, and `size` the sum of the existing ones in bytes.
    """

    paths: tuple[str, ...]
    size: int
    declared: int = 1

    @property
    def first(self) -> str:
        """The path that llama.cpp loads: the first shard, or the only file."""
        return self.paths[0]

    @property
    def quantization(self) -> str | None:
        return quantization_of(self.first)

    @property
    def is_projector(self) -> bool:
        return is_projector(self.first)

    @property
    def missing(self) -> tuple[str, ...]:
        """The paths of declared shards that do not exist."""
        match = _SPLIT.fullmatch(self.first)
        if match is None:
            return ()
        existing = {split_number(path) for path in self.paths}
        extension = self.first[match.end("count") :]
        return tuple(
            f"{match['stem']}-{number:05d}-of-{self.declared:05d}{extension}"
            for number in range(1, self.declared + 1)
            if number not in existing
        )


def quantization_of(path: str) -> str | None:
    """The quantization in a path, in its usual spelling (`Q4_K_M`, `UD-Q8_K_XL`), or None.

    The last one in the file's name counts, or else the one of its directory: `Q8_0/model-00001-of-00002.gguf`.
    """
    pure = PurePosixPath(path)
    for part in (pure.name, pure.parent.name):
        found = list(_QUANTIZATION.finditer(part))
        if found:
            name = found[-1].group(0).upper()
            return {"FP16": "F16", "FP32": "F32"}.get(name, name)
    return None


def likely_quantization(path: str) -> str | None:
    """The preferred quantization with the bits of a label that is none (`Q4_K_P`: Q4_K_M); None where there is none."""
    found = _LOOKS_QUANTIZED.search(PurePosixPath(path).name)
    digit = re.search(r"\d", found.group()) if found else None
    return next((name for name in PREFERRED if digit and name.startswith(f"Q{digit.group()}")), None)


def strip_quantization(name: str) -> str:
    """A file's or directory's name without its quantization, whether that is a known one or only looks like one."""
    return _TRIMMED.sub("", _LOOKS_QUANTIZED.sub("", _QUANTIZATION.sub("", name)))


def is_projector(path: str) -> bool:
    """Whether a path is named like a multimodal projector (`mmproj*`)."""
    return "mmproj" in PurePosixPath(path).name.lower()


def is_raw_part(path: str) -> bool:
    """Whether a path is named like a piece of a GGUF (`model.gguf.part1of2`, `model.gguf-split-a`). The shards of a
    split model are no pieces: each of them is a GGUF."""
    return _RAW_PART.fullmatch(PurePosixPath(path).name) is not None


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def split_number(path: str) -> int:
    """The shard number in a path, counted from 1; 1 for a file that is not split."""
    match = _SPLIT.fullmatch(path)
    return int(match["number"]) if match else 1


def stem_of(path: str) -> str:
    """The path without `.gguf` and without the suffix of a shard (`-00001-of-00002`)."""
    match = _SPLIT.fullmatch(path)
    if match:
        return match["stem"]
    return path[: -len(".gguf")] if is_gguf(path) else path


def split_count(path: str) -> int:
    """The number of shards that a path declares; 1 for a file that is not split."""
    match = _SPLIT.fullmatch(path)
    return int(match["count"]) if match else 1


def group_shards(files: Iterable[tuple[str, int]]) -> list[GgufSet]:
    """Group files, as (path, size in bytes), to models and projectors, sorted by first path.

    Files other than GGUF are left out.
    """
    shards: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for path, size in files:
        if not is_gguf(path):
            continue
        match = _SPLIT.fullmatch(path)
        # llama.cpp finds shards by the exact stem, so case matters
        key = (match["stem"], int(match["count"])) if match else (path, 0)
        shards.setdefault(key, []).append((path, size))
    sets = []
    for (_, count), group in shards.items():
        # skip shards with a number beyond the count, unless all have one: then every declared shard is missing
        sound = [member for member in group if 1 <= split_number(member[0]) <= max(count, 1)]
        members = sorted(sound or group, key=lambda member: (split_number(member[0]), member[0]))
        sets.append(GgufSet(tuple(path for path, _ in members), sum(size for _, size in members), max(count, 1)))
    return sorted(sets, key=lambda model: model.first)


def rank_models(models: Iterable[GgufSet]) -> list[GgufSet]:
    """Sort models, best first: those at the top of a directory, then by quantization, depth of the path, size, name."""
    return sorted(models, key=lambda model: rank_key(model.quantization, model))


def rank_key(quantization: str | None, model: GgufSet) -> tuple[bool, int, int, int, str]:
    """The sort key of a model with a quantization, best first.

    Models at the top of a directory come before all others.
    """
    is_nested = "/" in model.first
    if quantization in PREFERRED:
        return (is_nested, PREFERRED.index(quantization), model.first.count("/"), -model.size, model.first)
    return (is_nested, len(PREFERRED), 0, -model.size, model.first)


def local_files(directory: Path) -> list[tuple[str, int]]:
    """List the regular files below a directory as (relative POSIX path, size in bytes), sorted.

    Files and directories whose names begin with a dot are left out, as are directories that may not be read, and links
    to directories. Raises NoSuchFile, NoPermission, and BadSetting for more than MAX_LOCAL_FILES names.
    """
    try:
        if not directory.is_dir():
            raise NoSuchFile(f"{directory} is not a directory", cure="pass the directory of a model")
        found = []
        pending, left = [directory], MAX_LOCAL_FILES
        while pending:
            parent = pending.pop()
            try:
                names = list_directory(parent, max_entries=left)
            except (PermissionError, FileNotFoundError):
                if parent == directory:
                    raise
                continue  # another user's, or it was removed meanwhile
            left -= len(names)
            for path in (parent / name for name in names if not name.startswith(".")):
                if path.is_dir():
                    pending += [] if path.is_symlink() else [path]
                elif path.is_file():
                    found.append((path.relative_to(directory).as_posix(), path.stat().st_size))
    except UnusableContent:
        raise BadSetting(
            f"there are more than {MAX_LOCAL_FILES} files and directories below {directory}",
            cure="pass the directory of one model",
        ) from None
    except PermissionError as error:
        raise NoPermission(
            f"no permission to read {error.filename or directory}", cure="correct its permissions"
        ) from None
    return sorted(found)
