"""Check what huggingface_hub parsed of a revision, since it checks no types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from paddock.errors import UnsafeName
from paddock.model.artifact import BranchHead, Listing, RepositoryFile
from paddock.model.names import ModelName, parse_revision, parse_sha256, printable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.hf_api import RepoSibling

_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


def read_head(model: ModelName, info: ModelInfo) -> BranchHead:
    """Raises TypeError or UnsafeName."""
    return BranchHead(read_name(model, info.id), parse_revision(read_text(info.sha, "the commit")))


def read_listing(model: ModelName, info: ModelInfo) -> Listing:
    """Validate what huggingface_hub parsed, since it checks no types. Raises TypeError or UnsafeName."""
    licence = info.card_data.get("license") if info.card_data else None
    return Listing(
        model=read_name(model, info.id),
        revision=parse_revision(read_text(info.sha, "the commit")),
        files=tuple(sorted(map(_file, info.siblings or []), key=lambda file: file.path)),
        licence=licence if isinstance(licence, str) else None,
        library=info.library_name if isinstance(info.library_name, str) else None,
        gated=bool(info.gated),
    )


def read_name(requested: ModelName, id: object) -> ModelName:
    """The Hub's own name of the repository, which is another than the requested one for a renamed repository, and may
    differ in case. A mirror may send none."""
    try:
        return ModelName.parse(read_text(id, "the id"))
    except (TypeError, UnsafeName):
        return requested


def _file(sibling: RepoSibling) -> RepositoryFile:
    path = read_text(sibling.rfilename, "a file name")
    size = sibling.lfs.size if sibling.lfs else sibling.size
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError(f"the size of {printable(path)} is {str(size)[:40]!r}")
    if sibling.lfs:
        return RepositoryFile(
            path, size, parse_sha256(read_text(sibling.lfs.sha256, f"the digest of {printable(path)}")), None
        )
    if sibling.blob_id is not None and not _GIT_SHA1.fullmatch(
        read_text(sibling.blob_id, f"the digest of {printable(path)}")
    ):
        raise TypeError(f"the digest of {printable(path)} is {sibling.blob_id[:80]!r}")
    return RepositoryFile(path, size, None, sibling.blob_id)


def read_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {str(value)[:40]!r}")
    return value
