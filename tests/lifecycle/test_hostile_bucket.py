"""Content of a bucket is a hint: bytes are verified, what is derived is computed anew, workers go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from infra.local.hub import HubService
from paddock.errors import CorruptFile, NotOnVolume, PaddockError
from paddock.lifecycle import reports
from paddock.lifecycle.acquire.cache import push_missing
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.acquire.restore import find_remote, locate_or_restore, restore
from paddock.lifecycle.assess.header_cache import HeaderCache
from paddock.lifecycle.assess.validate import VALIDATION_REPORT, read_validation
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.dossier.write import write_dossier
from paddock.lifecycle.promote.measurements import audit_of
from paddock.lifecycle.revisions import list_revision
from paddock.lifecycle.steps import PlainRunner
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.derived_files import CHAT_FILE, TEMPLATE_FILE
from paddock.model.finding import Verdict
from paddock.model.names import ModelName, SegmentDigest, Sha256
from paddock.model.reference import Reference, Variant
from paddock.store.copying import push
from paddock.store.remote import ObjectStore
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.tiny_hub import MODEL, copy_directory, tiny_model, validate_snapshot

PLANTED = b"{% for m in messages %}{{ m['content'] }}{% endfor %}"
FAR = "9999-12-31T23:59:59+00:00"


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def worker(clients: Clients, bucket: Path) -> Clients:
    """A worker with an empty volume, a Hub and a remote store."""
    return replace(clients, remote=ObjectStore(DirectoryObjects(bucket, label="directory://bucket")))


@pytest.fixture
def cached(worker: Clients, pulled_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """The default variant, which another worker pulled and sent to the remote store."""
    copy_directory(pulled_home / "hub", tmp_path / "hub")
    copy_directory(pulled_home / "models", tmp_path / "first")
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "first"))
    first = connect()
    (manifest,) = first.volume.snapshots(MODEL)
    assert worker.remote is not None
    push(first.volume, worker.remote, manifest)
    worker.remote.promote([manifest.id], default=manifest.id)
    return manifest


def blob(bucket: Path, content: bytes) -> SnapshotFile:
    """Store content as a blob of the bucket; the file has its digest."""
    digest = Sha256(sha256(content).hexdigest())
    path = bucket / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return SnapshotFile(path="any", size=len(content), sha256=digest)


def manifest_path(bucket: Path, manifest: Manifest) -> Path:
    return bucket / "snapshots" / MODEL.slug / manifest.revision / f"{manifest.variant}.json"


def write_manifest(bucket: Path, manifest: Manifest) -> None:
    path = manifest_path(bucket, manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(manifest.to_json())


def with_file(manifest: Manifest, path: str, file: SnapshotFile) -> Manifest:
    planted = replace(file, path=path)
    return replace(manifest, files=tuple(planted if one.path == path else one for one in manifest.files))


def test_a_restored_snapshot_has_nothing_of_what_a_manifest_claims_but_its_files(
    worker: Clients, cached: Manifest, bucket: Path
) -> None:
    lying = with_file(cached, TEMPLATE_FILE, blob(bucket, PLANTED))
    lying = with_file(lying, CHAT_FILE, blob(bucket, json.dumps({"stop": ["e", "t", "a"]}).encode()))
    lying = replace(
        lying,
        verdict=Verdict.REJECT,
        findings=(),
        segment_bytes=3 * 2**20,
        files=tuple(replace(one, segments=(SegmentDigest("blake3:" + "0" * 64),)) for one in lying.files),
        quantization="Q2_K",
        split=77,
        template_sha256=Sha256(sha256(PLANTED).hexdigest()),
        created_at=datetime(2150, 1, 1, tzinfo=UTC),
        paddock_version="99",
        engine_version="99",
    )
    write_manifest(bucket, lying)
    restored = restore(PlainRunner(worker), Reference(MODEL)).manifest
    assert restored.created_at <= datetime.now(UTC)
    assert replace(restored, created_at=cached.created_at) == cached
    assert worker.volume.snapshot(cached.id) == restored
    assert sha256(PLANTED).hexdigest() not in {path.name for path in worker.volume.root.rglob("*")}, "it was fetched"


def test_a_file_of_the_commit_that_the_volume_knows_keeps_its_digest(
    worker: Clients, cached: Manifest, bucket: Path
) -> None:
    pull(replace(worker, remote=None), Reference(MODEL, Variant("Q4_K_M")))
    planted = with_file(cached, "config.json", blob(bucket, b'{"model_type": "gpt2", "x": "planted"}'))
    write_manifest(bucket, planted)
    restored = restore(PlainRunner(worker), Reference(MODEL, cached.variant)).manifest
    assert restored.files == cached.files


SAME_SIZE = b'{"model_max_length": 999}'


@pytest.mark.parametrize("is_on_volume", [False, True], ids=["in the bucket", "and on the volume"])
def test_a_small_file_is_the_git_blob_that_the_hub_lists(
    worker: Clients, cached: Manifest, bucket: Path, is_on_volume: bool, hub: HubService
) -> None:
    right = next(file for file in cached.files if file.path == "tokenizer_config.json")
    planted = blob(bucket, SAME_SIZE)
    assert planted.size == right.size
    write_manifest(bucket, with_file(cached, "tokenizer_config.json", planted))
    if is_on_volume:
        worker.volume.prepare()
        worker.volume.add_bytes(SAME_SIZE)
    pulled = pull(worker, Reference(MODEL, cached.variant)).manifest
    assert pulled.files == cached.files
    assert worker.volume.has_blob(planted.sha256, planted.size), "a sound blob is not quarantined"
    assert worker.remote is not None
    assert worker.remote.has_blob(planted.sha256, planted.size), "nor removed from the store"


def test_a_small_file_comes_from_the_bucket_where_it_is_the_right_one(
    worker: Clients, cached: Manifest, hub: HubService
) -> None:
    hub.reset_stats()
    acquired = {one.file.path: one.origin for one in pull(worker, Reference(MODEL, cached.variant)).acquired}
    assert set(acquired.values()) == {"s3"}


def _without(manifest: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name != key}


def _file(manifest: dict[str, Any], **values: object) -> dict[str, Any]:
    first, *others = manifest["files"]
    return {**manifest, "files": [{**first, **values}, *others]}


BAD_MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "segments of no bytes": lambda one: {**one, "segment_bytes": 0},
    "segments of less": lambda one: {**one, "segment_bytes": -1},
    "segments of one byte of a large file": lambda one: {**_file(one, size=2**40, segments=[]), "segment_bytes": 1},
    "segments of an exabyte": lambda one: {**one, "segment_bytes": 2**60},
    "segments that are a fraction": lambda one: {**one, "segment_bytes": 0.5},
    "more digests than segments": lambda one: _file(one, segments=["blake3:" + "0" * 64] * 1000),
    "a size below nothing": lambda one: _file(one, size=-5),
    "a size beyond all disks": lambda one: _file(one, size=2**80),
    "a size without an end": lambda one: _file(one, size=float("inf")),
    "a digest that is a path": lambda one: _file(one, sha256="../" * 20 + "etc/shadow"),
    "a path out of the snapshot": lambda one: _file(one, path="../../../etc/cron.d/x"),
    "millions of shards": lambda one: {**one, "split": 10**9},
    "no shard": lambda one: {**one, "split": 0},
    "a licence of a megabyte": lambda one: {**one, "licence": "x" * 2**20},
    "versions of a megabyte": lambda one: {**one, "engine_version": "x" * 2**20},
    "thousands of findings": lambda one: {**one, "findings": [{"rule": "a", "severity": "warn"}] * 10_001},
    "the manifest of another commit": lambda one: {**one, "revision": "f" * 40},
    "the manifest of another model": lambda one: {**one, "repository": "other/model"},
    "no verdict": lambda one: _without(one, "verdict"),
    "a time without a zone": lambda one: {**one, "created_at": "2026-01-01T00:00:00"},
    "a list": lambda _: [],
    "a text": lambda _: "manifest",
    "a number": lambda _: 7,
}


@pytest.mark.parametrize("change", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_manifest_beyond_its_bounds_is_that_of_a_damaged_snapshot(
    worker: Clients, bucket: Path, pulled_home: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    (own,) = connect(replace(worker.settings, volume=pulled_home / "models")).volume.snapshots(MODEL)
    write_manifest(bucket, own)
    path = manifest_path(bucket, own)
    path.write_text(json.dumps(change(json.loads(own.to_json()))))
    assert worker.remote is not None
    with pytest.raises(CorruptFile):
        worker.remote.snapshot(own.id)
    assert worker.remote.snapshots(MODEL) == []
    with pytest.raises(PaddockError):
        locate_or_restore(worker, Reference(MODEL))


OTHER = "e" * 40
BAD_REFS: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "null": b"null",
    "nested": b"[" * 5000,
    "no variants": b'{"default": "Q8_0"}',
    "variants that are a list": b'{"default": null, "variants": ["Q8_0"]}',
    "a path for a revision": b'{"default": "Q8_0", "variants": {"Q8_0": {"revision": "../../x", "previous": null}}}',
    "a branch": b'{"default": "Q8_0", "variants": {"Q8_0": {"revision": "main", "previous": null}}}',
    "a variant that is a path": b'{"default": "../x", "variants": {"../x": {"revision": "%b", "previous": null}}}'
    % (OTHER.encode()),
    "a snapshot that is nowhere": json.dumps(
        {"default": "Q8_0", "variants": {"Q8_0": {"revision": OTHER, "previous": None}}}
    ).encode(),
    "a default that is not promoted": json.dumps({"default": "Q2_K", "variants": {}}).encode(),
    "thousands of variants": json.dumps(
        {"default": None, "variants": {f"V{n}": {"revision": OTHER, "previous": None} for n in range(10_001)}}
    ).encode(),
    "megabytes of text": json.dumps({"default": "x" * 2**21, "variants": {}}).encode(),
    "a number without an end": b'{"default": 1e999, "variants": {}}',
}


@pytest.mark.parametrize("content", BAD_REFS.values(), ids=BAD_REFS)
def test_a_ref_of_any_content_neither_stops_nor_redirects_a_worker(
    worker: Clients, bucket: Path, pulled_home: Path, content: bytes
) -> None:
    (own,) = connect(replace(worker.settings, volume=pulled_home / "models")).volume.snapshots(MODEL)
    write_manifest(bucket, own)
    ref = bucket / "refs" / f"{MODEL.slug}.json"
    ref.parent.mkdir(parents=True)
    ref.write_bytes(content)
    remote = worker.remote
    assert remote is not None
    assert find_remote(worker, Reference(MODEL)).id == own.id
    assert find_remote(worker, Reference(MODEL, own.variant)).id == own.id
    remote.previous(MODEL)
    remote.promote([own.id], default=own.id)
    assert remote.promoted(MODEL).default_id == own.id


def plant_report(bucket: Path, manifest: Manifest, name: str, report: object, *, at: str = FAR) -> None:
    files = {file.path: file.sha256 for file in manifest.files if file.path.endswith(".gguf")}
    path = bucket / "reports" / MODEL.slug / manifest.revision / manifest.variant / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"files": files, "at": at, "report": report}))


def test_a_verdict_in_the_bucket_changes_none_of_the_volume(worker: Clients, pulled: Manifest, bucket: Path) -> None:
    own = validate_snapshot(replace(worker, remote=None), pulled)
    for verdict in ("accept", "warn", "reject"):
        findings = [{"rule": "x", "severity": verdict, "message": "m", "where": "", "cure": ""}] * (verdict != "accept")
        planted = {**own.to_json(), "verdict": verdict, "findings": findings}
        for at in (FAR, "zzz", "", datetime.now(UTC).isoformat()):
            plant_report(bucket, pulled, VALIDATION_REPORT, planted, at=at)
            assert read_validation(worker, pulled) == own
    worker.volume.reports.remove(pulled.id, VALIDATION_REPORT)
    plant_report(bucket, pulled, VALIDATION_REPORT, planted)
    with open_snapshot(worker, pulled) as opened:
        assert audit_of(worker, opened, None).verdict is own.verdict, "the gates audit again instead"


TIMES = {
    "9999": FAR,
    "no time": "zzz",
    "no zone": "2150-01-01T00:00:00",
    "a number": 7,
    "an old one": "2020-01-01T00:00:00+00:00",
}


@pytest.mark.parametrize("at", TIMES.values(), ids=TIMES)
def test_a_report_of_no_time_that_was_is_older_than_every_other(
    worker: Clients, pulled: Manifest, bucket: Path, at: object
) -> None:
    reports.write(worker, pulled, "any.json", {"own": True})
    plant_report(bucket, pulled, "any.json", {"own": False}, at=at)  # type: ignore[arg-type] # also what is no text
    assert reports.read(worker, pulled, "any.json", lambda value: value) == {"own": True}


@pytest.mark.parametrize(
    "head", [b"not a GGUF", b"GGUF" + b"\xff" * 5000, tiny_model(2, name="a planted one")], ids=len
)
def test_a_planted_header_costs_a_second_look_and_no_more(worker: Clients, head: bytes) -> None:
    listing = worker.hub.listing(MODEL)
    cache = HeaderCache(worker.settings.cache / "paddock" / "headers")
    for file in listing.files:
        if file.sha256:
            cache.put(file.sha256, head)
    pulled = pull(replace(worker, remote=None), Reference(MODEL, Variant("Q8_0"))).manifest
    assert (worker.volume.snapshot_path(pulled.id) / "tiny-Q8_0.gguf").read_bytes() == tiny_model()


def test_a_snapshot_that_s3_cannot_describe_is_looked_for_on_the_volume(
    worker: Clients, pulled: Manifest, bucket: Path
) -> None:
    pull(replace(worker, remote=None), Reference(MODEL, Variant("Q4_K_M")), promote=False)
    write_manifest(bucket, pulled)
    manifest_path(bucket, pulled).write_bytes(b"{")
    assert locate_or_restore(worker, Reference(MODEL, Variant("Q4_K_M"))).variant == "Q4_K_M"
    with pytest.raises(NotOnVolume):
        locate_or_restore(replace(worker, remote=None), Reference(MODEL, ref=OTHER))


def test_a_manifest_that_cannot_be_read_stops_nothing_that_is_shared(
    worker: Clients, pulled: Manifest, bucket: Path
) -> None:
    write_manifest(bucket, pulled)
    manifest_path(bucket, pulled).write_bytes(b"[" * 5000)
    reports.write(worker, pulled, "any.json", {})
    assert reports.share(worker, pulled, "any.json") is None
    write_dossier(worker, pulled)
    offline = connect(replace(worker.settings, hub_offline=True))
    assert list_revision(replace(worker, hub=offline.hub), MODEL, pulled.revision).files
    copied = push_missing(worker, pulled)
    assert copied is not None
    assert copied.blobs
    assert reports.share(worker, pulled, "any.json")
    assert worker.remote is not None
    assert worker.remote.snapshot(pulled.id) == pulled


def test_a_note_that_a_model_was_renamed_hides_nothing_in_the_bucket(
    worker: Clients, bucket: Path, pulled_home: Path
) -> None:
    (own,) = connect(replace(worker.settings, volume=pulled_home / "models")).volume.snapshots(MODEL)
    write_manifest(bucket, own)
    worker.volume.prepare()
    worker.volume.refs.remember_name(MODEL, ModelName.parse("evil/model"))
    assert find_remote(worker, Reference(MODEL)).id == own.id
