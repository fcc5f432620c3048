"""Answer the Hub's API: repository metadata, refs, commits, tree listings, and redirects to the files' bytes.

The wire format is that of huggingface.co in 2026, as observed in its responses and as its clients read it:

- errors carry `X-Error-Code` and `X-Error-Message`;
- a private repository looks to an anonymous client like one that does not exist (401); a registered token gets 404;
- the metadata of a gated repository is public, its files are not;
- an earlier name of a repository, and its name in another case, is a 307 to its own;
- a file in LFS is a 302 to a signed URL on another host; any other file is a 307 to a relative URL that holds the
  commit.

Xet, datasets, spaces, search and writing are not implemented.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

import yaml
from starlette.requests import Request

from infra.local.hub import git
from infra.local.hub.repositories import Commit, LocalHub, Repository, RepositoryEntry
from infra.local.hub.response import HubResponse, StoredFile, file_response, json_response, text_response
from infra.local.hub.tree import Tree

PAGE_ROWS = 1000
EXPANDED_PAGE_ROWS = 50


class ApiError(Exception):
    """An error response of the Hub: status, error code (None where the Hub sends none) and message."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        own = {"X-Error-Message": message, **(headers or {})}
        if code is not None:
            own["X-Error-Code"] = code
        if status == 401:
            own["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        self.response = json_response({"error": message}, own, status=status)


class Moved(Exception):
    """The repository has another name now, or another case: a redirect to it."""

    def __init__(self, name: str, current: str) -> None:
        super().__init__(f"{name} is {current}")
        self.name = name
        self.current = current


@dataclass(frozen=True)
class Caller:
    """The client of a request: its token (None for an anonymous one), and the repositories that it may read."""

    token: str | None
    granted: list[str]


class HubApi:
    """Handles requests to the Hub's address. `sign` returns the signed URL of a file's bytes."""

    def __init__(self, hub: LocalHub, *, sign: Callable[[str, RepositoryEntry], str]) -> None:
        self._hub = hub
        self._sign = sign

    async def respond(self, request: Request) -> HubResponse:
        # The raw path, since a revision or a folder may contain an encoded slash.
        raw_path: bytes = request.scope["raw_path"]
        parts = [unquote(part) for part in raw_path.decode().split("/")[1:]]
        try:
            caller = self._caller(request)
            match parts:
                case ["api", "whoami-v2"]:
                    if caller.token is None:
                        raise ApiError(401, None, "Invalid username or password.")
                    return json_response({"type": "user", "name": "local", "fullname": "Local user", "orgs": []})
                case ["api", "models", org, name, *rest]:
                    repository = self._repository(f"{org}/{name}", caller)
                    return await self._metadata(request, repository, rest, caller)
                case ["api", "resolve-cache", "models", org, name, commit, *path]:
                    repository = self._repository(f"{org}/{name}", caller)
                    return self._plain_file(request, repository, commit, "/".join(path), caller)
                case [org, name, "resolve", revision, *path] if path:
                    repository = self._repository(f"{org}/{name}", caller)
                    return self._resolve(repository, revision, "/".join(path), caller)
            raise ApiError(404, None, "Sorry, we can't find the page you are looking for.")
        except ApiError as error:
            return error.response
        except Moved as moved:
            query = f"?{request.url.query}" if request.url.query else ""
            location = raw_path.decode().replace(moved.name, moved.current, 1) + query
            return text_response(307, f"Temporary Redirect. Redirecting to {location}", {"Location": location})

    async def _metadata(self, request: Request, repository: Repository, rest: list[str], caller: Caller) -> HubResponse:
        match rest:
            case []:
                return json_response(self._info(request, repository, _commit(repository, "main")))
            case ["revision", revision]:
                return json_response(self._info(request, repository, _commit(repository, revision)))
            case ["refs"]:
                return json_response(_refs(repository, with_pull_requests="include_prs" in request.query_params))
            case ["auth-check"]:
                _check_gate(repository, caller)
                return json_response({})
            case ["commits", revision]:
                commits = list(repository.history(_commit(repository, revision)))
                return _page(request, [_commit_row(commit) for commit in commits], EXPANDED_PAGE_ROWS)
            case ["tree", revision, *folder]:
                return _tree(request, repository, _commit(repository, revision), "/".join(folder))
            case ["paths-info", revision] if request.method == "POST":
                return await _paths_info(request, repository, _commit(repository, revision))
        raise ApiError(404, None, "Sorry, we can't find the page you are looking for.")

    def _caller(self, request: Request) -> Caller:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return Caller(None, [])
        granted = self._hub.granted(token)
        if granted is None:
            raise ApiError(401, None, "Invalid credentials in Authorization header")
        return Caller(token, granted)

    def _repository(self, name: str, caller: Caller) -> Repository:
        repository = self._hub.find(name)
        current = self._hub.current_name(name) if repository is None else None
        if current is not None:
            raise Moved(name, current)
        if repository is None or (repository.private and name not in caller.granted):
            if caller.token is None:
                raise ApiError(401, "RepoNotFound", "Invalid username or password.")
            raise ApiError(404, "RepoNotFound", "Repository not found")
        return repository

    def _info(self, request: Request, repository: Repository, commit: Commit) -> dict[str, Any]:
        card = self._card(commit)
        licence = [f"license:{card['license']}"] if "license" in card else []
        suffixes = {path.rpartition(".")[2] for path in commit.entries}
        with_blobs = _is_set(request.query_params.get("blobs", ""))
        *_, first = repository.history(commit)
        info: dict[str, Any] = {
            "_id": git.blob_id(repository.name.encode())[:24],
            "id": repository.name,
            "modelId": repository.name,
            "author": repository.name.split("/")[0],
            "sha": commit.id,
            "lastModified": commit.date,
            "createdAt": first.date,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [*sorted(suffixes & {"gguf", "safetensors"}), *licence, "region:us"],
            "cardData": card,
            "siblings": [_sibling(entry, with_blobs=with_blobs) for entry in commit.entries.values()],
            "usedStorage": sum(entry.size for entry in commit.entries.values()),
        }
        expand = request.query_params.getlist("expand") + request.query_params.getlist("expand[]")
        return {key: value for key, value in info.items() if not expand or key in {"_id", "id", "modelId", *expand}}

    def _card(self, commit: Commit) -> dict[str, Any]:
        """The YAML between the `---` lines at the start of README.md; empty where there is none."""
        readme = commit.entries.get("README.md")
        if readme is None:
            return {}
        head, *parts = self._hub.blob(readme.sha256).read_text(errors="replace").split("---\n", 2)
        if head or len(parts) < 2:
            return {}
        try:
            card = yaml.safe_load(parts[0])
        except yaml.YAMLError:
            return {}
        # Through JSON text, since YAML has types that JSON lacks, such as dates.
        return json.loads(json.dumps(card, default=str)) if isinstance(card, dict) else {}

    def _resolve(self, repository: Repository, revision: str, path: str, caller: Caller) -> HubResponse:
        commit = _commit(repository, revision)
        _check_gate(repository, caller)
        entry = _entry(commit, path)
        linked = {
            "X-Repo-Commit": commit.id,
            "Accept-Ranges": "bytes",
            "X-Linked-Size": str(entry.size),
            "X-Linked-Etag": f'"{_etag(entry)}"',
        }
        if entry.pointer_size is not None:
            location = self._sign(repository.name, entry)
            return text_response(302, f"Found. Redirecting to {location}", {**linked, "Location": location})
        query = urlencode({f"/{repository.name}/resolve/{revision}/{path}": "", "etag": f'"{_etag(entry)}"'})
        location = f"/api/resolve-cache/models/{repository.name}/{commit.id}/{quote(path)}?{query}"
        text = f"Temporary Redirect. Redirecting to {location}"
        return text_response(307, text, {**linked, "Location": location})

    def _plain_file(
        self, request: Request, repository: Repository, commit: str, path: str, caller: Caller
    ) -> HubResponse:
        stored = _commit(repository, commit)
        _check_gate(repository, caller)
        entry = _entry(stored, path)
        file = StoredFile(f"{repository.name}/{path}", self._hub.blob(entry.sha256), entry.size)
        return file_response(file, request.headers, etag=_etag(entry), headers={"X-Repo-Commit": stored.id})


def _commit(repository: Repository, revision: str) -> Commit:
    commit = repository.resolve(revision)
    if commit is None:
        raise ApiError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit


def _entry(commit: Commit, path: str) -> RepositoryEntry:
    if path not in commit.entries:
        raise ApiError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.id})
    return commit.entries[path]


def _check_gate(repository: Repository, caller: Caller) -> None:
    if not repository.gated or repository.name in caller.granted:
        return
    restricted = f"Access to model {repository.name} is restricted"
    if caller.token is None:
        raise ApiError(
            401,
            "GatedRepo",
            f"{restricted}. You must have access to it and be authenticated to access it.",
        )
    raise ApiError(
        403, "GatedRepo", f"{restricted} and you are not in the authorized list. Ask for access on its page."
    )


def _etag(entry: RepositoryEntry) -> str:
    return entry.sha256 if entry.pointer_size is not None else entry.oid


def _sibling(entry: RepositoryEntry, *, with_blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": entry.path}
    if with_blobs:
        row |= {"size": entry.size, "blobId": entry.oid}
        if entry.pointer_size is not None:
            row["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    return row


def _refs(repository: Repository, *, with_pull_requests: bool) -> dict[str, Any]:
    branches, tags = repository.refs()

    def rows(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in refs.items()]

    lists: dict[str, Any] = {"tags": rows("tags", tags), "branches": rows("heads", branches), "converts": []}
    return {**lists, "pullRequests": []} if with_pull_requests else lists


def _commit_row(commit: Commit) -> dict[str, Any]:
    title, _, rest = commit.message.partition("\n")
    return {
        "id": commit.id,
        "title": title,
        "message": rest.strip(),
        "authors": [{"user": "paddock"}],
        "date": commit.date,
    }


def _tree(request: Request, repository: Repository, commit: Commit, folder: str) -> HubResponse:
    tree = Tree(commit)
    if folder not in tree.folders:
        raise ApiError(404, "EntryNotFound", f'{folder} does not exist on "{commit.id}"', {"X-Repo-Commit": commit.id})
    paths = tree.below(folder, recursive=_is_set(request.query_params.get("recursive", "")))
    if _is_set(request.query_params.get("expand", "")):
        return _page(request, tree.rows(paths, history_of=repository), EXPANDED_PAGE_ROWS)
    return _page(request, tree.rows(paths), PAGE_ROWS)


async def _paths_info(request: Request, repository: Repository, commit: Commit) -> HubResponse:
    """Rows of the paths in the body, a form (as huggingface_hub sends it) or JSON. Unknown paths are left out."""
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            fields = json.loads(body)
            paths, is_expanded = [str(path) for path in fields["paths"]], bool(fields.get("expand"))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ApiError(400, None, "Invalid body: expected an object with the key paths") from None
    else:
        form = parse_qs(body.decode(errors="replace"))
        paths, is_expanded = form.get("paths", []), _is_set(form.get("expand", [""])[0])
    tree = Tree(commit)
    existing = [path for path in paths if path in tree]
    return json_response(tree.rows(existing, history_of=repository if is_expanded else None))


def _is_set(flag: str) -> bool:
    return flag.lower() in ("true", "1")


def _page(request: Request, rows: list[dict[str, Any]], page_size: int) -> HubResponse:
    """The rows from the cursor on, and a Link to the next page (RFC 8288) where more follow."""
    try:
        limit = min(max(int(request.query_params.get("limit", page_size)), 1), page_size)
        start = max(int(base64.urlsafe_b64decode(request.query_params.get("cursor", "MA=="))), 0)
    except ValueError:
        raise ApiError(400, None, "Invalid limit or cursor") from None
    headers = {}
    if start + limit < len(rows):
        cursor = base64.urlsafe_b64encode(str(start + limit).encode()).decode()
        query = urlencode({**request.query_params, "limit": limit, "cursor": cursor})
        address = f"{str(request.base_url).rstrip('/')}{request.scope['raw_path'].decode()}"
        headers["Link"] = f'<{address}?{query}>; rel="next"'
    return json_response(rows[start : start + limit], headers)
