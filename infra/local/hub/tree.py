"""Build the rows of the Hub's tree listings: files and folders of a commit, and the last commit that changed each.

A *row* is the JSON object that the Hub returns for a path. Requests, pagination, revisions and errors are left to
`api`.
"""

from collections.abc import Iterable
from typing import Any

from infra.local.hub import git
from infra.local.hub.repositories import Commit, Repository


class Tree:
    """The files and folders of one commit."""

    def __init__(self, commit: Commit) -> None:
        self.commit = commit
        self.folders = git.tree_ids({path: entry.oid for path, entry in commit.entries.items()})

    def __contains__(self, path: str) -> bool:
        return path in self.commit.entries or path in self.folders

    def below(self, folder: str, *, recursive: bool) -> list[str]:
        """The paths in a folder, folders first; with `recursive`, those in its folders too."""
        prefix = f"{folder}/" if folder else ""
        return [
            path
            for path in [*sorted(self.folders), *self.commit.entries]
            if path and path != folder and path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])
        ]

    def oid(self, path: str) -> str | None:
        entry = self.commit.entries.get(path)
        return entry.oid if entry else self.folders.get(path)

    def row(self, path: str) -> dict[str, Any]:
        if path not in self.commit.entries:
            return {"type": "directory", "oid": self.folders[path], "size": 0, "path": path}
        entry = self.commit.entries[path]
        row: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.pointer_size is not None:
            row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
        return row

    def rows(self, paths: Iterable[str], *, history_of: Repository | None = None) -> list[dict[str, Any]]:
        """A row for each path. With a repository, each row has the last commit that changed its path."""
        rows = [self.row(path) for path in paths]
        if history_of is not None:
            history = [Tree(commit) for commit in history_of.history(self.commit)]
            for row in rows:
                last = _last_change(row["path"], history)
                row["lastCommit"] = {"id": last.id, "title": last.message.partition("\n")[0], "date": last.date}
        return rows


def _last_change(path: str, history: list[Tree]) -> Commit:
    newest, *older = history
    last = newest.commit
    for tree in older:
        if tree.oid(path) != newest.oid(path):
            break
        last = tree.commit
    return last
