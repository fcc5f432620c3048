"""Find the GGUF file that `--file` names: by its path, its name, or a pattern such as `*Q4_K_M*`.

A pattern has the wildcards of the shell, and is compared with paths and with file names. The nearest kind of match
counts: an exact path, then an exact name, then the pattern, then the pattern in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from paddock.errors import BadSetting, FileNotInRevision
from paddock.model.names import printable
from paddock.model.quantization import GgufSet

_MAX_LISTED = 20


def find_file(sets: Sequence[GgufSet], wanted: str, repository: str) -> GgufSet:
    """The GGUF, or all shards of a split one, that `wanted` names among `sets`. A pattern that matches a model and its
    projector means the model.

    Raises FileNotInRevision, which lists the files of `repository`, and BadSetting where several models match.
    """
    folded = wanted.casefold()
    kinds: tuple[Callable[[str], bool], ...] = (
        lambda path: path == wanted,
        lambda path: PurePosixPath(path).name == wanted,
        lambda path: _matches(path, wanted),
        lambda path: _matches(path.casefold(), folded),
    )
    for is_match in kinds:
        found = [gguf for gguf in sets if any(map(is_match, gguf.paths))]
        found = [gguf for gguf in found if not gguf.is_projector] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise BadSetting(
                f"{len(found)} models of {repository} match {wanted[:200]!r}: {_listed(found)}", cure="name one of them"
            )
    raise FileNotInRevision(
        f"{repository} has no GGUF file {wanted[:200]!r}",
        cure=f"use one of {_listed(sets)}" if sets else "use a repository of GGUF files",
    )


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(PurePosixPath(path).name, pattern)


def _listed(sets: Sequence[GgufSet]) -> str:
    more = len(sets) - _MAX_LISTED
    names = ", ".join(printable(gguf.first) for gguf in sets[:_MAX_LISTED])
    return f"{names} and {more} more" if more > 0 else names
