"""The contract of every store: the same tests over the volume, two S3 servers, and a store on a directory."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.errors import BlobMissing, CorruptFile, NotOnVolume, SnapshotDiffers, UnsafeName
from paddock.model.artifact import RecordedFinding
from paddock.model.finding import Severity, Verdict
from paddock.model.names import ModelName, Revision, Sha256
from paddock.model.reference import SnapshotId, Variant
from paddock.store.history import Promoted
from paddock.store.remote import ObjectStore
from paddock.store.volume import Volume
from tests.support.stores import MODEL, Q4, Q8, A, B, C, id_of, manifest_of, publish, put_blobs

Either = Volume | ObjectStore


def overwrite_manifest(store: Either, id: SnapshotId, text: bytes) -> None:
    """Write a manifest behind the store's back."""
    if isinstance(store, Volume):
        path = store.snapshot_path(id) / "manifest.json"
        path.unlink()
        path.write_bytes(text)
    else:
        store.objects.put(f"snapshots/{id.model.slug}/{id.revision}/{id.variant}.json", text)


def promote(store: Either, id: SnapshotId, *, default: bool = True) -> None:
    if isinstance(store, Volume):
        store.promote(id, reason="a test", default=default)
    else:
        store.promote([id], default=id if default else None)


def test_an_empty_store_has_nothing(store: Either) -> None:
    assert not store.has_blob(Sha256("0" * 64), 1)
    assert store.snapshot(id_of(A)) is None
    assert store.snapshots() == store.snapshots(MODEL) == []
    assert store.ids(MODEL) == []
    assert store.promoted(MODEL) == Promoted(MODEL)
    assert store.read_report(id_of(A), "audit.json") is None


def test_a_blob_is_found_only_with_its_size(store: Either, scratch: Path) -> None:
    manifest = publish(store, A, {"model.gguf": b"12345"}, scratch)
    digest = manifest.files[0].sha256
    assert store.has_blob(digest, 5)
    assert not store.has_blob(digest, 4)


def test_what_was_published_is_read_back(store: Either, scratch: Path) -> None:
    contents = {"model.gguf": b"x" * 100_000, "deep/er/ünïcode 模型.json": b"{}", "empty.json": b""}
    manifest = publish(store, A, contents, scratch)
    assert store.snapshot(id_of(A)) == manifest
    assert store.snapshots() == [manifest]


def test_a_snapshot_without_one_of_its_blobs_is_not_published(store: Either, scratch: Path) -> None:
    manifest = manifest_of(A, {"a.gguf": b"a", "b.gguf": b"b"})
    put_blobs(store, manifest_of(A, {"a.gguf": b"a"}), {"a.gguf": b"a"}, scratch)
    with pytest.raises(BlobMissing, match=r"org/name:Q8_0@aaaaaaaa .*blob of b\.gguf"):
        store.publish(manifest)
    assert store.snapshot(id_of(A)) is None
    assert store.snapshots() == []


def test_publishing_the_same_files_again_keeps_the_first_manifest(store: Either, scratch: Path) -> None:
    first = publish(store, A, {"model.gguf": b"same"}, scratch, age_s=0)
    findings = (RecordedFinding(rule="a rule", severity=Severity.WARN),)
    later = manifest_of(A, {"model.gguf": b"same"}, age_s=60)
    store.publish(replace(later, verdict=Verdict.WARN, findings=findings, paddock_version="2"))
    assert store.snapshot(id_of(A)) == first


def test_the_same_identity_with_other_files_is_refused_and_nothing_changes(store: Either, scratch: Path) -> None:
    first = publish(store, A, {"q8.gguf": b"eight", "config.json": b"{}"}, scratch)
    promote(store, first.id)
    for contents in ({"q8.gguf": b"other", "config.json": b"{}"}, {"q8.gguf": b"eight"}, {"m.gguf": b"eight"}):
        with pytest.raises(SnapshotDiffers, match=f"org/name:Q8_0@{A} is .*never replaced"):
            publish(store, A, contents, scratch, age_s=60)
        assert store.snapshot(id_of(A)) == first
    assert store.snapshots() == [first]
    assert store.promoted(MODEL).default_id == first.id
    assert all(store.has_blob(file.sha256, file.size) for file in first.files)


def test_several_variants_of_one_commit_are_separate_snapshots(store: Either, scratch: Path) -> None:
    contents = {
        Q8: {"q8.gguf": b"eight", "config.json": b"{}"},
        Variant("Q8_0-mmproj"): {"q8.gguf": b"eight", "mmproj.gguf": b"sees", "config.json": b"{}"},
        Q4: {"q4.gguf": b"four", "config.json": b"{}"},
    }
    made = [
        publish(store, A, files, scratch, variant=variant, age_s=number)
        for number, (variant, files) in enumerate(contents.items())
    ]
    assert [store.snapshot(manifest.id) for manifest in made] == made
    assert store.snapshots() == store.snapshots(MODEL) == made
    assert sorted(store.ids(MODEL)) == sorted(manifest.id for manifest in made)
    assert store.snapshot(id_of(B)) is None
    apparent, real = store.sizes()
    assert apparent == sum(manifest.size_bytes for manifest in made)
    assert real == len(b"eight" + b"sees" + b"four" + b"{}")


def test_variants_of_two_commits_are_four_snapshots(store: Either, scratch: Path) -> None:
    made = [
        publish(store, revision, {"m.gguf": f"{variant} of {revision}".encode()}, scratch, variant=variant)
        for revision in (A, B)
        for variant in (Q4, Q8)
    ]
    assert sorted(store.ids(MODEL)) == [manifest.id for manifest in sorted(made, key=lambda manifest: manifest.id)]
    assert all(store.snapshot(manifest.id) == manifest for manifest in made)


def test_a_variant_that_lacks_a_blob_leaves_the_one_beside_it(store: Either, scratch: Path) -> None:
    published = publish(store, A, {"q8.gguf": b"eight"}, scratch)
    with pytest.raises(BlobMissing, match="org/name:Q4_K_M@"):
        store.publish(manifest_of(A, {"q4.gguf": b"four"}, variant=Q4))
    assert store.snapshots() == [published]


def test_snapshots_are_sorted_by_repository_and_age(store: Either, scratch: Path) -> None:
    other = ModelName.parse("another/model")
    late = publish(store, A, {"m.gguf": b"1"}, scratch, age_s=60)
    early = publish(store, B, {"m.gguf": b"2"}, scratch, age_s=0)
    elsewhere = publish(store, C, {"m.gguf": b"3"}, scratch, model=other, age_s=30)
    assert store.snapshots() == [elsewhere, early, late]
    assert store.snapshots(MODEL) == [early, late]


def test_a_file_with_the_manifest_s_own_name_is_refused(store: Either) -> None:
    with pytest.raises(UnsafeName, match=r"Manifest\.json"):
        store.publish(manifest_of(A, {"Manifest.json": b"{}"}))


def test_each_variant_is_promoted_at_a_revision_of_its_own(store: Either, scratch: Path) -> None:
    for revision in (A, B):
        for variant in (Q8, Q4):
            publish(store, revision, {"m.gguf": f"{variant} of {revision}".encode()}, scratch, variant=variant)
    promote(store, id_of(A))
    assert store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})
    promote(store, id_of(B, Q4))
    assert store.promoted(MODEL) == Promoted(MODEL, Q4, {Q8: A, Q4: B})
    promote(store, id_of(A, Q4))
    assert store.promoted(MODEL) == Promoted(MODEL, Q4, {Q8: A, Q4: A})
    promote(store, id_of(B))
    promote(store, id_of(B))
    assert store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: B, Q4: A})


def test_a_variant_can_be_promoted_beside_the_default(store: Either, scratch: Path) -> None:
    for variant in (Q8, Q4):
        publish(store, A, {"m.gguf": variant.encode()}, scratch, variant=variant)
    promote(store, id_of(A, Q4), default=False)
    assert store.promoted(MODEL) == Promoted(MODEL, None, {Q4: A})
    promote(store, id_of(A))
    promote(store, id_of(A, Q4), default=False)
    assert store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A, Q4: A})


def test_a_snapshot_that_is_not_published_cannot_be_promoted(store: Either, scratch: Path) -> None:
    publish(store, A, {"m.gguf": b"a"}, scratch)
    promote(store, id_of(A))
    for id in (id_of(B), id_of(A, Q4), id_of(A, model=ModelName.parse("another/model"))):
        with pytest.raises(NotOnVolume, match=str(id)):
            promote(store, id)
        assert not store.promoted(id.model).holds(id)
    assert store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})


def test_concurrent_promotions_of_several_variants_are_all_kept(store: Either, scratch: Path) -> None:
    variants = [Variant(f"Q{number}_0") for number in range(6)]
    for variant in variants:
        publish(store, A, {"m.gguf": variant.encode()}, scratch, variant=variant)
    with ThreadPoolExecutor(len(variants)) as pool:
        list(pool.map(lambda variant: promote(store, id_of(A, variant)), variants))
    promoted = store.promoted(MODEL)
    assert promoted.revisions == dict.fromkeys(variants, A)
    assert promoted.default in variants


def test_concurrent_promotions_of_one_variant_end_with_one_of_them(store: Either, scratch: Path) -> None:
    revisions = [Revision(f"{number:040x}") for number in range(6)]
    for revision in revisions:
        publish(store, revision, {"m.gguf": revision.encode()}, scratch)
    with ThreadPoolExecutor(len(revisions)) as pool:
        list(pool.map(lambda revision: promote(store, id_of(revision)), revisions))
    promoted = store.promoted(MODEL)
    assert promoted.default_id in [id_of(revision) for revision in revisions]
    assert list(promoted.revisions) == [Q8]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema": 2}',
        manifest_of(A, {"m.gguf": b"a"}).to_json().replace('"schema": 2', '"schema": 1').encode(),
        manifest_of(B, {"m.gguf": b"a"}).to_json().encode(),
        manifest_of(A, {"m.gguf": b"a"}, variant=Q4).to_json().encode(),
        manifest_of(A, {"m.gguf": b"a"}, model=ModelName.parse("another/model")).to_json().encode(),
        b"\xff\xfe",
    ],
    ids=[
        "empty",
        "torn",
        "a list",
        "no fields",
        "of another schema",
        "that of another revision",
        "that of another variant",
        "that of another model",
        "no text",
    ],
)
def test_a_wrong_manifest_is_corrupt_and_left_out(
    store: Either, scratch: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, A, {"m.gguf": b"a"}, scratch)
    beside = publish(store, A, {"m.gguf": b"a"}, scratch, variant=Q4)
    sound = publish(store, C, {"m.gguf": b"a"}, scratch, age_s=60)
    overwrite_manifest(store, id_of(A), text)
    with pytest.raises(CorruptFile, match="a" * 40) as caught:
        store.snapshot(id_of(A))
    assert f"`paddock rm org/name:Q8_0@{A}`" in str(caught.value.cure)
    with caplog.at_level(logging.WARNING):
        assert store.snapshots() == [beside, sound]
    assert "a" * 40 in caplog.text
    published_again = publish(store, A, {"m.gguf": b"a"}, scratch)
    assert store.snapshot(id_of(A)) == published_again


def test_a_report_is_replaced_as_a_whole(store: Either) -> None:
    where = store.write_report(id_of(A), "audit.json", "first, and longer")
    assert where.endswith(f"reports/org--name/{A}/Q8_0/audit.json")
    store.write_report(id_of(A), "audit.json", "zwei ✓")
    assert store.read_report(id_of(A), "audit.json") == "zwei ✓"
    assert store.read_report(id_of(B), "audit.json") is None
    assert store.read_report(id_of(A, Q4), "audit.json") is None


def test_reports_are_listed_and_removed(store: Either) -> None:
    assert store.report_names(id_of(A)) == []
    for id, name in ((id_of(A), "b.json"), (id_of(A), "a.json"), (id_of(B), "c.json"), (id_of(A, Q4), "d.json")):
        store.write_report(id, name, "text")
    assert store.report_names(id_of(A)) == ["a.json", "b.json"]
    for _ in range(2):
        store.remove_report(id_of(A), "b.json")
    assert store.report_names(id_of(A)) == ["a.json"]
    store.remove_report(id_of(C), "a.json")
    assert store.report_names(id_of(A, Q4)) == ["d.json"]


def test_the_bytes_of_a_picture_are_kept_as_they_are(store: Either) -> None:
    content = bytes(range(256))
    store.write_report(id_of(A), "memory.png", content)
    if isinstance(store, Volume):
        assert store.reports.root.joinpath(f".paddock/reports/org--name/{A}/Q8_0/memory.png").read_bytes() == content
    else:
        found = store.objects.get(f"reports/org--name/{A}/Q8_0/memory.png")
        assert found is not None
        assert found.content == content


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\x00b", "a\\b"])
def test_a_report_s_name_cannot_leave_its_directory(store: Either, name: str) -> None:
    with pytest.raises(UnsafeName):
        store.write_report(id_of(A), name, "text")
    with pytest.raises(UnsafeName):
        store.read_report(id_of(A), name)
    with pytest.raises(UnsafeName):
        store.remove_report(id_of(A), name)


def test_the_label_names_the_store(store: Either) -> None:
    assert store.label == (f"the volume {store.root}" if isinstance(store, Volume) else store.objects.label)
