"""Storage of the local Hub: Git ids, commits with parents, and the same state after a restart."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from infra.local.hub import LocalHub
from infra.local.hub.git import blob_id, tree_ids


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_ids_are_equal_to_gits(tmp_path: Path) -> None:
    # "a-b" sorts before "a/" in a tree, and after "a" in a listing.
    files = {"a/x.txt": b"x", "a-b": b"1", "a.txt": b"2", "deep/er/y": b"y", "deep/z": b""}
    git(tmp_path, "init", "-q")
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    git(tmp_path, "add", ".")
    trees = tree_ids({path: blob_id(data) for path, data in files.items()})
    assert blob_id(files["a-b"]) == git(tmp_path, "hash-object", "a-b")
    assert trees[""] == git(tmp_path, "write-tree")
    assert trees["deep/er"] == git(tmp_path, "write-tree", "--prefix=deep/er/")


def test_a_commit_has_the_previous_one_as_parent(tmp_path: Path) -> None:
    repository = LocalHub(tmp_path).repository("org/name")
    first = repository.commit({"a": b"1", "b": b"2"}, message="one")
    second = repository.commit({"a": b"3", "b": None, "c": b"4"}, message="two")
    commit = repository.read(second)
    assert (commit.parent, list(commit.entries)) == (first, ["a", "c"])
    assert list(repository.read(first).entries) == ["a", "b"]
    assert repository.commit({"c": b"4"}) == second  # nothing changed


def test_a_restart_keeps_commits_refs_flags_and_tokens(tmp_path: Path) -> None:
    before = LocalHub(tmp_path)
    commit = before.repository("org/name", gated=True).commit({"a": b"1"})
    before.repository("org/name").tag("v1")
    before.grant("token", "org/name")
    after = LocalHub(tmp_path)
    repository = after.find("org/name")
    assert repository is not None
    assert repository.refs() == ({"main": commit}, {"v1": commit})
    assert repository.resolve("v1") == repository.read(commit)
    assert repository.gated
    assert after.granted("token") == ["org/name"]
    assert after.granted("another") is None
    assert after.find("org/other") is None
    assert after.find("../org/name") is None


def test_bytes_are_stored_once_as_a_hard_link_to_the_given_file(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"weights")
    hub = LocalHub(tmp_path / "hub")
    for name in ("org/one", "org/two"):
        hub.repository(name).commit({"model.gguf": source, "copy.bin": b"weights"})
    (blob,) = [path for path in (hub.root / "blobs").rglob("*") if path.is_file()]
    assert blob == hub.blob(hashlib.sha256(b"weights").hexdigest())
    assert blob.samefile(source)


@pytest.mark.parametrize(
    ("path", "size", "is_lfs"),
    [
        ("a.gguf", 1, True),
        ("a.safetensors", 1, True),
        ("a.bin", 1, True),
        ("a.json", 10_000_001, True),
        ("a.json", 1, False),
    ],
)
def test_large_files_and_weights_are_in_lfs(tmp_path: Path, path: str, size: int, is_lfs: bool) -> None:
    assert (LocalHub(tmp_path).store(path, bytes(size)).pointer_size is not None) is is_lfs


def test_a_hostile_path_creates_no_file_outside_the_hub(tmp_path: Path) -> None:
    repository = LocalHub(tmp_path / "hub").repository("org/name")
    paths = ["../../escape", "/absolute", "a//b", "con:.gguf", "new\nline"]
    commit = repository.read(repository.commit(dict.fromkeys(paths, b"x")))
    assert set(commit.entries) == set(paths)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


@pytest.mark.parametrize("name", ["name", "a/b/c", "../x", "org/", "/name", "org/..", "o g/x"])
def test_an_invalid_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected org/name"):
        LocalHub(tmp_path).repository(name)


def test_an_unknown_revision_cannot_be_tagged(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="org/name has no revision main"):
        LocalHub(tmp_path).repository("org/name").tag("v1")
