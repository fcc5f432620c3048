"""Parse the SOURCE argument of `inspect` and `plan`: a local path, or a model on the Hub.

    model.gguf, ./dir, /dir, ~/dir          a local file or directory
    org/name[:VARIANT][@REVISION]           a model on the Hub, or one variant of it
    org/name[@REVISION]:path/model.gguf     one file on the Hub

A path that exists is local, and so is text that begins like a path, or ends in `.gguf` without a repository before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paddock.errors import NoSuchFile
from paddock.model.names import ModelName, parse_ref
from paddock.model.reference import Reference, Variant

_LOCAL_PREFIXES = ("/", "./", "../", "~")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model on the Hub at a branch, tag or commit: all of it, one variant, or one file."""

    model: ModelName
    ref: str
    variant: Variant | None
    file: str | None


def parse_source(text: str) -> Path | HubSource:
    """The path of a local SOURCE, which exists, or the parts of one on the Hub.

    Raises NoSuchFile for a local path that does not exist, and UnsafeName.
    """
    path = _path(text)
    return path if _is_local(text, path) else _parse_hub_source(text)


def _parse_hub_source(text: str) -> HubSource:
    head, colon, file = text.partition(":")
    if colon and file.lower().endswith(".gguf"):
        model, at, ref = head.partition("@")
        return HubSource(ModelName.parse(model), parse_ref(ref) if at else "main", None, file)
    reference = Reference.parse(text)
    return HubSource(reference.model, reference.ref or "main", reference.variant, None)


def _path(text: str) -> Path:
    if not text:  # Path("") is the current directory
        raise NoSuchFile("the name of the file is empty", cure="give the path of a .gguf file, or org/name")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise NoSuchFile(
            f"the home directory in {text[:200]!r} is not known", cure="give the path without the `~`"
        ) from None


def _is_local(text: str, path: Path) -> bool:
    try:
        if path.exists():
            return True
    except (OSError, ValueError):
        raise NoSuchFile(
            f"{text[:200]!r} is not a path that can exist", cure="give a .gguf file, or org/name"
        ) from None
    if text.startswith(_LOCAL_PREFIXES) or (text.lower().endswith(".gguf") and ":" not in text):
        raise NoSuchFile(
            f"there is no file {text}", cure="give the path of a .gguf file, or org/name[:VARIANT][@REVISION]"
        )
    return False
