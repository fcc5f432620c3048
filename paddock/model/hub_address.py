"""Read the Hub's addresses, as people copy them from a browser or from another tool.

    https://huggingface.co/org/name                              a model; hf.co and the host of HF_ENDPOINT are the same
    https://huggingface.co/org/name/tree/v1.0                    at a branch, tag or commit
    https://huggingface.co/org/name/blob/main/dir/model.gguf     one file of it; also `resolve` and `raw`
    hf.co/org/name:Q4_K_M                                        without a scheme, as Ollama and llama.cpp write it
    hf://org/name@v1.0/dir/model.gguf                            as huggingface_hub's file system writes it

`main` in an address is the page that the Hub shows when nobody asked for a revision, so it counts as none. What the
parts of an address name is validated by `paddock.model.reference`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from paddock.errors import UnsafeName

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_OTHER_KINDS = {
    "datasets": "a dataset",
    "spaces": "a space",
    "collections": "a collection",
    "papers": "a paper",
    "docs": "documentation",
    "blog": "a blog post",
}
_AT_REVISION = frozenset({"tree", "blob", "resolve", "raw", "blame", "edit", "commit", "commits", "revision"})
_WITHOUT_REVISION = frozenset({"discussions", "settings", "activity"})
_DEFAULT_REVISION = "main"
_CURE = "write org/name[:VARIANT][@REVISION], or an address such as https://huggingface.co/org/name"


@dataclass(frozen=True, slots=True)
class HubAddress:
    """The parts of an address. `model` is as written, possibly with `:VARIANT` and `@REVISION`; `ref` and `path` are
    None where the address has none. `path` is that of a file or folder."""

    model: str
    ref: str | None = None
    path: str | None = None


def split_address(text: str, endpoint: str = "") -> HubAddress | None:
    """Split an address of the Hub into its parts; None for text that is no address. `endpoint` is the Hub in use.

    Raises UnsafeName for an address of another host, or of something else than a model.
    """
    text = text.strip()
    match = _SCHEME.fullmatch(text)
    scheme, rest = (match[1].lower(), match[2]) if match else ("", text)
    if scheme == "hf":
        return _split_path(rest.removeprefix("models/"), text, has_views=False)
    if scheme and "@" in rest.partition("/")[0]:
        raise UnsafeName("an address with a user name or password is not used", cure=_CURE)
    path = _after_host(rest, endpoint) if scheme in {"", "http", "https"} else None
    if path is not None:
        return _split_path(path, text)
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "://" in text or (_HOST.fullmatch(host) and len(re.split("[:@]", rest)[0].split("/")) > 2):
        hub = urlsplit(endpoint).netloc or _HOSTS[0]
        raise UnsafeName(f"{_quoted(text)} is not an address of the Hub, {hub}", cure=_CURE)
    return None


def _after_host(rest: str, endpoint: str) -> str | None:
    """The part of an address without its scheme that follows the Hub's host; None for another host."""
    hub = urlsplit(endpoint)
    bases = {hub.netloc + hub.path.rstrip("/"), hub.netloc, *_HOSTS} - {""}
    for base in sorted(bases, key=len, reverse=True):
        after = rest[len(base) :]
        if rest.lower().startswith(base.lower()) and after[:1] in {"", "/", "?", "#"} and (after or base in _HOSTS):
            return after
    return None


def _split_path(path: str, text: str, *, has_views: bool = True) -> HubAddress:
    """Split what follows the host. `has_views`: a view such as `tree` or `blob` stands between a model and a path."""
    path, query = _without_query(path)
    names = [unquote(name) for name in path.split("/") if name]
    if names[:2] == ["api", "models"]:
        names = names[2:]
    if not names or (names[0] == "models" and len(names) < 3):
        raise UnsafeName(f"{_quoted(text)} names no model", cure=_CURE)
    if names[0] in _OTHER_KINDS:
        raise UnsafeName(f"{_quoted(text)} is {_OTHER_KINDS[names[0]]} and not a model", cure=_CURE)
    if any(mark in name for name in names[:2] for mark in ":@"):
        return _split_reference("/".join(names))
    size = 1 if len(names) == 1 or (has_views and len(names) > 2 and names[1] in _AT_REVISION) else 2
    model, view = "/".join(names[:size]).removesuffix(".git"), names[size:]
    if not has_views:
        return HubAddress(model, path="/".join(view) or None)
    if not view or view[0] in _WITHOUT_REVISION:
        return HubAddress(model, path=query)
    if view[0] not in _AT_REVISION:
        raise UnsafeName(f"{_quoted(text)} has {view[0][:40]!r} after the model's name", cure=f"write {model}")
    ref, file = _split_revision(view[1:])
    return HubAddress(model, ref, file or query)


def _split_reference(text: str) -> HubAddress:
    """`org/name:VARIANT` and its like, and `org/name@REVISION/file.gguf`."""
    model, at, rest = text.partition("@")
    if at and ":" not in text and rest.lower().endswith(".gguf"):
        ref, path = _split_revision(rest.split("/"))
        return HubAddress(model, ref, path)
    return HubAddress(text)


def _split_revision(names: list[str]) -> tuple[str | None, str | None]:
    """(revision, path after it). Only the revisions of pull requests and conversions have slashes in an address."""
    length = 3 if names[:1] == ["refs"] and names[1:2] in (["pr"], ["convert"]) else 1
    ref = "/".join(names[:length])
    return None if ref in {"", _DEFAULT_REVISION} else ref, "/".join(names[length:]) or None


def _without_query(path: str) -> tuple[str, str | None]:
    """(the path alone, the file that the Hub's page shows details of)."""
    path, _, query = path.partition("#")[0].partition("?")
    shown = parse_qs(query).get("show_file_info", [""])[0]
    return path, shown or None


def _quoted(text: str) -> str:
    """The address for a message, without its query, which may hold a signature."""
    text = text.partition("?")[0]
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
