"""Check what huggingface_hub parsed of a revision, since it checks no types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from paddock.errors import UnsafeName
from paddock.model.artifact import MAX_TEXT, BranchHead, Listing, RepositoryFile
from paddock.model.names import ModelName, Revision, is_revision, parse_revision, parse_sha256, printable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.hf_api import RepoSibling

_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


class OtherAnswer(Exception):
    """The Hub answered for another commit or repository than the requested one. Its text is the second half of a
    sentence: "it answered ..."."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and the addresses of the redirects that the Hub answered with before its answer."""

    model: ModelName
    ref: str
    redirects: Sequence[str] = ()


def read_head(request: Request, info: ModelInfo) -> BranchHead:
    """Raises OtherAnswer, TypeError or UnsafeName."""
    return BranchHead(_name(request, info.id), _commit(request, info.sha))


def read_listing(request: Request, info: ModelInfo) -> Listing:
    """Validate what huggingface_hub parsed, since it checks no types. Raises OtherAnswer, TypeError or UnsafeName."""
    licence = info.card_data.get("license") if info.card_data else None
    return Listing(
        model=_name(request, info.id),
        revision=_commit(request, info.sha),
        files=tuple(sorted(map(_file, info.siblings or []), key=lambda file: file.path)),
        licence=licence[:MAX_TEXT] if isinstance(licence, str) else None,
        library=info.library_name if isinstance(info.library_name, str) else None,
        gated=bool(info.gated),
    )


def _commit(request: Request, sha: object) -> Revision:
    """The answered commit, which is the requested one where a commit was requested."""
    revision = parse_revision(read_text(sha, "the commit"))
    if is_revision(request.ref.lower()) and revision != request.ref.lower():
        raise OtherAnswer(f"it answered with commit {revision}")
    return revision


def _name(request: Request, id: object) -> ModelName:
    """The Hub's own name of the repository, which may differ from the requested one in case. Another name is that of a
    renamed repository only if the Hub redirected to it: else the answer is about another repository. A mirror may send
    none."""
    try:
        name = ModelName.parse(read_text(id, "the id"))
    except (TypeError, UnsafeName):
        return request.model
    if str(name).lower() == str(request.model).lower() or any(_leads_to(name, one) for one in request.redirects):
        return name
    raise OtherAnswer(f"it answered about the repository {name}")


def _leads_to(name: ModelName, location: str) -> bool:
    """Whether the address of a redirect is that of a repository in the Hub's API."""
    try:
        path = unquote(urlsplit(location).path)
    except ValueError:
        return False
    _, api, rest = path.partition("/api/models/")
    return bool(api) and f"{rest}/".lower().startswith(f"{name}/".lower())


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
