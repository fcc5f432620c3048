"""Store the local Hub's repositories in one folder: commits made from files, branches, tags and access tokens.

A *blob* is a file's bytes, stored once under its sha256. An *entry* is a path in a commit. A *commit* is the complete
list of entries, with the id that Git would give it. Everything is read from disk on each request, so a restart serves
the same commits, and one process may commit while another serves; only one may commit at a time.

    <root>/blobs/ab/abcd…                         bytes, by sha256; hard links to the given files where possible
    <root>/repositories/<org>/<name>/state.json   branches, tags, gated, private
    <root>/repositories/<org>/<name>/commits/<id>.json
    <root>/renames.json                           the new name of each repository by its old one
    <root>/tokens.json                            the repositories that each token may read

Paths in a repository are data and never become paths on disk, so tests can commit hostile file names.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.local.hub import git

LFS_SUFFIXES = (".gguf", ".bin", ".safetensors")
LFS_OVER_BYTES = 10_000_000
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class RepositoryEntry:
    """A file of a commit. `oid` is its Git blob id; `pointer_size` (bytes) is None for a file that is not in LFS."""

    path: str
    size: int
    sha256: str
    oid: str
    pointer_size: int | None


@dataclass(frozen=True)
class Commit:
    id: str
    tree: str
    parent: str | None
    message: str
    date: str
    entries: dict[str, RepositoryEntry]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "entries": [asdict(entry) for entry in self.entries.values()]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Commit":
        entries = {row["path"]: RepositoryEntry(**row) for row in value["entries"]}
        return cls(**{**value, "entries": entries})


def _write_atomically(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as temporary:
        json.dump(value, temporary)
    Path(temporary.name).replace(path)


class LocalHub:
    """All repositories under `root`, and the access tokens for them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def repository(self, name: str, *, gated: bool | None = None, private: bool | None = None) -> "Repository":
        """Get or create the repository `org/name`. A flag that is None stays as it is. Raises ValueError."""
        if not _NAME.fullmatch(name):
            msg = f"{name!r} is not a repository name: expected org/name"
            raise ValueError(msg)
        repository = Repository(self, name)
        before = repository.state()
        state = {**(before or {"branches": {}, "tags": {}, "gated": False, "private": False})}
        state.update({key: flag for key, flag in (("gated", gated), ("private", private)) if flag is not None})
        if state != before:
            repository.save(state)
        return repository

    def find(self, name: str) -> "Repository | None":
        repository = Repository(self, name)
        return repository if _NAME.fullmatch(name) and repository.state() else None

    def rename(self, old: str, new: str) -> None:
        """Let `old` be an earlier name of the repository `new`."""
        _write_atomically(self.root / "renames.json", {**self._renames(), old: new})

    def current_name(self, name: str) -> str | None:
        """The name of the repository that had another name before, or whose name differs from `name` only in case."""
        folded = name.casefold()
        names = {
            path.parent.relative_to(self.root / "repositories").as_posix()
            for path in self.root.glob("repositories/*/*/state.json")
        }
        return self._renames().get(name) or next((other for other in names if other.casefold() == folded), None)

    def grant(self, token: str, *repositories: str) -> None:
        """Register a token, and grant it access to these gated or private repositories.

        A token that was never registered is refused everywhere, for public repositories too.
        """
        tokens = self._tokens()
        tokens[token] = sorted({*tokens.get(token, []), *repositories})
        _write_atomically(self.root / "tokens.json", tokens)

    def granted(self, token: str) -> list[str] | None:
        """The repositories that a token may read; None for a token that was never registered."""
        return self._tokens().get(token)

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256[:2] / sha256

    def store(self, path: str, source: Path | bytes) -> RepositoryEntry:
        """Store a file's bytes as a blob, and return the entry for them under `path`."""
        if isinstance(source, bytes):
            size, sha256 = len(source), hashlib.sha256(source).hexdigest()
        else:
            with source.open("rb") as file:
                size, sha256 = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        blob = self.blob(sha256)
        if not blob.exists():
            self._write_blob(blob, source)
        if path.endswith(LFS_SUFFIXES) or size > LFS_OVER_BYTES:
            pointer = git.lfs_pointer(sha256, size)
            return RepositoryEntry(path, size, sha256, git.blob_id(pointer), len(pointer))
        return RepositoryEntry(path, size, sha256, git.blob_id(blob.read_bytes()), None)

    def _write_blob(self, blob: Path, source: Path | bytes) -> None:
        blob.parent.mkdir(parents=True, exist_ok=True)
        temporary = blob.with_name(f"{blob.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        if isinstance(source, bytes):
            temporary.write_bytes(source)
        else:
            try:
                temporary.hardlink_to(source)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, temporary)
        temporary.replace(blob)

    def _renames(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.root / "renames.json").read_text()))
        except FileNotFoundError:
            return {}

    def _tokens(self) -> dict[str, list[str]]:
        path = self.root / "tokens.json"
        tokens: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
        return tokens


class Repository:
    """A repository: its branches, tags and commits. Created by `LocalHub.repository`."""

    def __init__(self, hub: LocalHub, name: str) -> None:
        self.hub = hub
        self.name = name
        self._folder = hub.root / "repositories" / name

    def commit(
        self, files: Mapping[str, Path | bytes | None], *, message: str = "Update files", branch: str = "main"
    ) -> str:
        """Add, replace or remove (None) files on top of a branch, and return the commit's id.

        A new branch starts at `main`. Where nothing changes, no commit is made and the id of the branch's last commit
        is returned. A file given as a path may be hard-linked, so it must not be changed in place afterwards.
        """
        state = self._state()
        start = state["branches"].get(branch) or state["branches"].get("main")
        parent = self.read(start) if start else None
        entries = dict(parent.entries) if parent else {}
        for path, source in files.items():
            if source is None:
                del entries[path]
            else:
                entries[path] = self.hub.store(path, source)
        entries = dict(sorted(entries.items()))
        tree = git.tree_ids({path: entry.oid for path, entry in entries.items()})[""]
        if parent is None or parent.tree != tree:
            now = datetime.now(UTC)
            oid = git.commit_id(tree=tree, parent=start, message=message, unix_time=int(now.timestamp()))
            date = now.strftime("%Y-%m-%dT%H:%M:%S.000Z")
            parent = Commit(id=oid, tree=tree, parent=start, message=message, date=date, entries=entries)
            _write_atomically(self._commit_path(oid), parent.to_json())
        state["branches"][branch] = parent.id
        self.save(state)
        return parent.id

    def branch(self, name: str, *, at: str = "main") -> None:
        """Create or move a branch."""
        self._set_ref("branches", name, at)

    def tag(self, name: str, *, at: str = "main") -> None:
        self._set_ref("tags", name, at)

    @property
    def gated(self) -> bool:
        return bool(self._state()["gated"])

    @property
    def private(self) -> bool:
        return bool(self._state()["private"])

    def refs(self) -> tuple[dict[str, str], dict[str, str]]:
        """Commit ids by branch name, and by tag name."""
        state = self._state()
        return state["branches"], state["tags"]

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag or a 40-hex id; None where there is none."""
        branches, tags = self.refs()
        oid = branches.get(revision) or tags.get(revision) or revision
        return self.read(oid) if _COMMIT.fullmatch(oid) and self._commit_path(oid).exists() else None

    def read(self, commit: str) -> Commit:
        return Commit.from_json(json.loads(self._commit_path(commit).read_text()))

    def history(self, commit: Commit) -> Iterator[Commit]:
        """The commit and its ancestors, newest first."""
        yield commit
        while commit.parent is not None:
            commit = self.read(commit.parent)
            yield commit

    def state(self) -> dict[str, Any] | None:
        path = self._folder / "state.json"
        state: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        return state

    def save(self, state: dict[str, Any]) -> None:
        _write_atomically(self._folder / "state.json", state)

    def _state(self) -> dict[str, Any]:
        state = self.state()
        if state is None:
            msg = f"no repository {self.name}"
            raise LookupError(msg)
        return state

    def _set_ref(self, kind: str, name: str, at: str) -> None:
        commit = self.resolve(at)
        if commit is None:
            msg = f"{self.name} has no revision {at}"
            raise LookupError(msg)
        state = self._state()
        state[kind][name] = commit.id
        self.save(state)

    def _commit_path(self, commit: str) -> Path:
        return self._folder / "commits" / f"{commit}.json"
