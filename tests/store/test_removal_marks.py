"""A worker that publishes a snapshot, and a clean-up that removes its blobs, at the same moment: one sees the other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Set
from pathlib import Path

import pytest

from paddock.errors import BlobMissing, InUse, StoreUnavailable
from paddock.model.artifact import Manifest
from paddock.model.names import Sha256
from paddock.store.remote import ObjectStore
from paddock.store.remote.conditional_writes import ConditionalWrites
from paddock.store.remote.removal_marks import CLAIM_S, RemovalMarks
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.stores import MODEL, A, B, id_of, manifest_of, publish, put_blobs

CONTENTS = {"m.gguf": b"weights"}


class Interrupted(DirectoryObjects):
    """Objects that call a function of the test once, before a request of that kind with that prefix."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, label="directory://test")
        self.before: tuple[str, str, Callable[[], object]] | None = None

    def _at(self, kind: str, key: str) -> None:
        if self.before is not None and kind == self.before[0] and key.startswith(self.before[1]):
            _, _, function = self.before
            self.before = None
            function()

    def delete(self, key: str) -> None:
        self._at("delete", key)
        super().delete(key)

    def put_if(self, key: str, content: bytes, *, tag: str | None) -> str | None:
        self._at("put_if", key)
        return super().put_if(key, content, tag=tag)


@pytest.fixture
def objects(tmp_path: Path) -> Interrupted:
    return Interrupted(tmp_path / "bucket")


@pytest.fixture
def store(objects: Interrupted, tmp_path: Path) -> ObjectStore:
    """A store with a marked blob that no manifest names."""
    store = ObjectStore(objects)
    put_blobs(store, manifest_of(A, CONTENTS), CONTENTS, tmp_path)
    (file,) = manifest_of(A, CONTENTS).files
    store.mark_blob(file.sha256, None)
    return store


def other(objects: Interrupted) -> ObjectStore:
    """The store as another worker sees it."""
    return ObjectStore(objects)


def send(store: ObjectStore, tmp_path: Path) -> Manifest:
    return publish(store, A, CONTENTS, tmp_path)


def named(store: ObjectStore) -> Callable[[], Set[Sha256] | None]:
    return store.named_blobs


def is_whole(store: ObjectStore) -> bool:
    """Whether each visible snapshot has its blobs."""
    return all(store.has_blob(file.sha256, file.size) for one in store.snapshots() for file in one.files)


def test_a_blob_that_is_published_between_the_claim_and_the_look_stays(
    store: ObjectStore, objects: Interrupted, tmp_path: Path
) -> None:
    done: list[Manifest] = []
    worker = threading.Thread(target=lambda: done.append(send(other(objects), tmp_path)))

    def look() -> Set[Sha256] | None:
        worker.start()  # it waits for the clean-up, once its manifest is visible
        while not store.ids(MODEL):
            time.sleep(0.005)
        return store.named_blobs()

    assert store.remove_marked(store.marks(), needed=look) == set()
    worker.join()
    assert done == store.snapshots()
    assert is_whole(store)


def test_a_blob_that_is_published_after_the_look_is_missed_by_the_publication(
    store: ObjectStore, objects: Interrupted, tmp_path: Path
) -> None:
    failures: list[Exception] = []

    def send_late() -> None:
        try:
            send(other(objects), tmp_path)
        except BlobMissing as error:
            failures.append(error)

    worker = threading.Thread(target=send_late)

    def during_the_removal() -> None:
        worker.start()
        while not store.ids(MODEL):
            time.sleep(0.005)

    objects.before = ("delete", "blobs/", during_the_removal)
    assert len(store.remove_marked(store.marks(), needed=named(store))) == 1
    worker.join()
    assert len(failures) == 1
    assert (store.snapshots(), store.blobs(), store.marks()) == ([], {}, {})
    send(other(objects), tmp_path)  # the next attempt sends the blob again
    assert is_whole(store)
    assert store.ids(MODEL) == [id_of(A)]


def test_the_claim_of_a_dead_clean_up_is_taken_over(store: ObjectStore, objects: Interrupted, tmp_path: Path) -> None:
    def die() -> Set[Sha256] | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.remove_marked(store.marks(), needed=die)
    ((sha256, mark),) = store.marks().items()
    assert mark.state == "claimed"
    path = tmp_path / "bucket" / "marks" / f"{sha256}.json"
    os.utime(path, (time.time() - CLAIM_S - 1,) * 2)
    send(store, tmp_path)
    assert store.marks()[sha256].state == "needed"
    assert is_whole(store)


def test_a_publication_waits_only_so_long(store: ObjectStore, objects: Interrupted) -> None:
    ((sha256, mark),) = store.marks().items()
    marks = RemovalMarks(objects, ConditionalWrites(objects))
    marks.write(sha256, "claimed", mark)
    with pytest.raises(BlobMissing, match=f"about to remove the blob {sha256}: try again"):
        marks.wait_until_unclaimed([sha256], wait_s=0.0)
    marks.wait_until_unclaimed([Sha256("b" * 64)], wait_s=0.0)


def test_a_promotion_that_comes_during_a_removal_brings_the_manifest_back(
    store: ObjectStore, objects: Interrupted, tmp_path: Path
) -> None:
    send(store, tmp_path)
    objects.before = ("delete", "snapshots/", lambda: other(objects).promote([id_of(A)]))
    with pytest.raises(InUse, match="is promoted"):
        store.remove(id_of(A))
    assert store.ids(MODEL) == store.promoted(MODEL).ids == [id_of(A)]


def test_a_promotion_whose_snapshot_was_removed_at_that_moment_is_undone(
    store: ObjectStore, objects: Interrupted, tmp_path: Path
) -> None:
    send(store, tmp_path)
    before = publish(store, B, {"m.gguf": b"before"}, tmp_path)
    store.promote([before.id], default=before.id)
    # A clean-up that looked at the ref just before it is written.
    objects.before = ("put_if", "refs/", lambda: objects.delete(f"snapshots/{MODEL.slug}/{A}/Q8_0.json"))
    with pytest.raises(StoreUnavailable, match="was removed from directory://test just now"):
        store.promote([id_of(A)], default=id_of(A))
    assert store.promoted(MODEL).ids == [before.id]
