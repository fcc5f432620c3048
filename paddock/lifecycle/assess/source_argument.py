"""Parse the SOURCE argument of `inspect` and `plan`: a local path, or a model on the Hub.

    model.gguf, ./dir, /dir, ~/dir          a local file or directory
    org/name[:VARIANT][@REVISION]           a model on the Hub, or one variant of it
    org/name[@REVISION]:path/model.gguf     one file on the Hub
    https://huggingface.co/org/name/...     any of the three (`paddock.model.hub_address`)

A path that exists is local, and so is text that begins like a path, or ends in `.gguf` without a repository before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paddock.errors import NoSuchFile
from paddock.model.hub_address import split_address
from paddock.model.names import ModelName
from paddock.model.reference import Variant, parse_requested

_LOCAL_PREFIXES = ("/", "./", "../", "~")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model on the Hub at a branch, tag or commit: all of it, one variant, or one file."""

    model: ModelName
    ref: str
    variant: Variant | None
    file: str | None


def parse_source(text: str, endpoint: str = "") -> Path | HubSource:
    """The path of a local SOURCE, which exists, or the parts of one on the Hub, `endpoint` or any of its addresses.

    Raises NoSuchFile for a local path that does not exist, and UnsafeName.
    """
    path = _path(text)
    if _exists(text, path):
        return path
    if split_address(text, endpoint) is None and _is_like_a_path(text):
        raise NoSuchFile(
            f"there is no file {text}", cure="give the path of a .gguf file, or org/name[:VARIANT][@REVISION]"
        )
    requested = parse_requested(text, endpoint)
    reference = requested.reference
    return HubSource(reference.model, reference.ref or "main", reference.variant, requested.file)


def _path(text: str) -> Path:
    if not text:  # Path("") is the current directory
        raise NoSuchFile("the name of the file is empty", cure="give the path of a .gguf file, or org/name")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise NoSuchFile(
            f"the home directory in {text[:200]!r} is not known", cure="give the path without the `~`"
        ) from None


def _exists(text: str, path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        raise NoSuchFile(
            f"{text[:200]!r} is not a path that can exist", cure="give a .gguf file, or org/name"
        ) from None


def _is_like_a_path(text: str) -> bool:
    return text.startswith(_LOCAL_PREFIXES) or (text.lower().endswith(".gguf") and ":" not in text)
