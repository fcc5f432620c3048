"""Compute Git's ids of blobs, trees and commits, and write Git LFS pointer files.

An id is the SHA-1 of `<kind> <length>\\0<body>`. The Hub shows these ids: `blobId` of a file, `oid` of a folder, `sha`
of a revision. For a file in LFS, `blobId` is the id of its pointer, the three lines of text that Git stores in its
place. Nothing is stored here, and Git's pack format and protocols are not implemented.
"""

import hashlib
from collections.abc import Mapping

AUTHOR = "Paddock <paddock@localhost>"


def object_id(kind: str, body: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(body)) + body, usedforsecurity=False).hexdigest()


def blob_id(data: bytes) -> str:
    return object_id("blob", data)


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The pointer file that Git stores in place of a file in LFS (git-lfs, docs/spec.md)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def tree_ids(blobs: Mapping[str, str]) -> dict[str, str]:
    """The tree id of each folder by its path; the root is `""`. `blobs` maps a file's path to its blob id."""
    children: dict[str, dict[str, tuple[str, str]]] = {"": {}}
    for path, blob in blobs.items():
        folder, _, name = path.rpartition("/")
        children.setdefault(folder, {})[name] = ("100644", blob)
        while folder:
            parent, _, _ = folder.rpartition("/")
            children.setdefault(parent, {})
            folder = parent
    ids: dict[str, str] = {}
    for folder in sorted(children, key=lambda path: -path.count("/") - bool(path)):
        # Git sorts a folder as if its name ended with a slash.
        rows = sorted(children[folder].items(), key=lambda row: row[0] + ("/" if row[1][0] == "40000" else ""))
        body = b"".join(b"%s %s\0" % (mode.encode(), name.encode()) + bytes.fromhex(oid) for name, (mode, oid) in rows)
        ids[folder] = object_id("tree", body)
        if folder:
            parent, _, name = folder.rpartition("/")
            children[parent][name] = ("40000", ids[folder])
    return ids


def commit_id(*, tree: str, parent: str | None, message: str, unix_time: int) -> str:
    lines = [f"tree {tree}"]
    if parent is not None:
        lines.append(f"parent {parent}")
    lines += [f"author {AUTHOR} {unix_time} +0000", f"committer {AUTHOR} {unix_time} +0000", "", message]
    return object_id("commit", "\n".join(lines).encode())
