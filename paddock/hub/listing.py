"""Read the Hub's answer about a revision, whose values are of any type until they are checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from paddock.errors import UnsafeName
from paddock.model.artifact import MAX_TEXT, BranchHead, Listing, RepositoryFile
from paddock.model.names import ModelName, Revision, is_revision, parse_revision, parse_sha256, printable

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


def read_head(request: Request, answer: object) -> BranchHead:
    """Read an answer with at least `id` and `sha`. Raises OtherAnswer, TypeError or UnsafeName."""
    fields = _object(answer, "the answer")
    return BranchHead(_name(request, _value(fields, "id")), _commit(request, fields.get("sha")))


def read_listing(request: Request, answer: object) -> Listing:
    """Read an answer with `siblings`, their sizes and digests. Raises OtherAnswer, TypeError or UnsafeName."""
    fields = _object(answer, "the answer")
    card, library, siblings = fields.get("cardData"), fields.get("library_name"), fields.get("siblings") or []
    licence = card.get("license") if isinstance(card, dict) else None
    if not isinstance(siblings, list):
        raise TypeError(f"the files are {str(siblings)[:40]!r}")
    return Listing(
        model=_name(request, _value(fields, "id")),
        revision=_commit(request, fields.get("sha")),
        files=tuple(sorted(map(_file, siblings), key=lambda file: file.path)),
        licence=licence[:MAX_TEXT] if isinstance(licence, str) else None,
        library=library if isinstance(library, str) else None,
        gated=bool(fields.get("gated")),
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


def _file(sibling: object) -> RepositoryFile:
    fields = _object(sibling, "a file")
    path, lfs = read_text(_value(fields, "rfilename"), "a file name"), fields.get("lfs")
    pointed = _object(lfs, f"the pointer of {printable(path)}") if lfs else fields
    size = pointed.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError(f"the size of {printable(path)} is {str(size)[:40]!r}")
    if lfs:
        digest = read_text(pointed.get("sha256"), f"the digest of {printable(path)}")
        return RepositoryFile(path, size, parse_sha256(digest), None)
    git_sha1 = fields.get("blobId")
    if git_sha1 is not None and not _GIT_SHA1.fullmatch(read_text(git_sha1, f"the digest of {printable(path)}")):
        raise TypeError(f"the digest of {printable(path)} is {git_sha1[:80]!r}")
    return RepositoryFile(path, size, None, git_sha1)


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is {str(value)[:40]!r}")
    return value


def _value(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise TypeError(f"it has no {name!r}")
    return fields[name]


def read_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {str(value)[:40]!r}")
    return value
