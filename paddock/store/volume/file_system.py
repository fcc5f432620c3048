"""Try what Paddock needs of the volume's file system, in a directory of its own that is removed again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from paddock.store import durable
from paddock.store.features import Feature, FeatureReport

FILE_SYSTEM_FEATURES: Final = (
    Feature("symbolic links", True, "no model can be promoted"),
    Feature("hard links", False, "a snapshot's files are symbolic links, which end when a blob is removed"),
    Feature("locks", False, "a model that is being served may be removed, and two processes may do the same work"),
    Feature("exchanged names", False, "a snapshot that is replaced is absent for a moment"),
    Feature("case of names", False, "models, variants or files that differ in case alone take each other's place"),
)
"""What is lost without each of them."""


def probe_file_system(parent: Path) -> list[FeatureReport]:
    """Try each feature below a directory. Raises OSError where nothing can be written there."""
    with durable.staged_directory(parent) as directory:
        return [
            FeatureReport(feature.name, not problem, problem or "works", feature.lost)
            for feature in FILE_SYSTEM_FEATURES
            for problem in [_problem(_TRIALS[feature.name], directory)]
        ]


def _problem(trial: Callable[[Path], str], directory: Path) -> str:
    try:
        return trial(directory)
    except OSError as error:
        return f"refused ({error.strerror or error})"


def _symbolic_links(directory: Path) -> str:
    link = directory / "link"
    link.symlink_to("target")
    return "" if link.readlink() == Path("target") else "another target is read back"


def _hard_links(directory: Path) -> str:
    file, link = directory / "file", directory / "hard"
    file.write_bytes(b"1")
    os.link(file, link)
    return "" if link.stat().st_ino == file.stat().st_ino else "a link is another file"


def _locks(directory: Path) -> str:
    path = directory / "lock"
    path.write_bytes(b"")
    with path.open("rb") as first, path.open("rb") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
    return "a lock does not keep others out"


def _exchanged_names(directory: Path) -> str:
    one, other = directory / "one", directory / "other"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    is_exchanged = durable.exchange(one, other)
    return "" if is_exchanged and one.read_bytes() == b"2" else "the kernel or file system cannot exchange two names"


def _case_of_names(directory: Path) -> str:
    (directory / "case").write_bytes(b"")
    return "it is ignored" if (directory / "CASE").exists() else ""


_TRIALS: Final[dict[str, Callable[[Path], str]]] = {
    "symbolic links": _symbolic_links,
    "hard links": _hard_links,
    "locks": _locks,
    "exchanged names": _exchanged_names,
    "case of names": _case_of_names,
}
