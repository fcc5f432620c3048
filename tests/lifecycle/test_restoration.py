"""A volume that was lost comes back from S3, without the Hub and without believing what the bucket says."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from infra.local.hub import Service
from infra.local.s3 import S3Server
from paddock.errors import BadSetting, CorruptFile, ModelRejected, NotOnVolume, StoreUnavailable, TransferRefused
from paddock.lifecycle import promotion
from paddock.lifecycle.measuring import benchmark
from paddock.lifecycle.parts import Parts, connect
from paddock.lifecycle.pull import pull
from paddock.lifecycle.restoration import reach, restore
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.names import SegmentDigest, Sha256
from paddock.store.copying import push
from tests.support.house import MODEL, NAME, point_to, point_to_s3, stock, tiny, unsound
from tests.support.segments import first_segments_of, segment_of


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, hub: Service, s3: S3Server, tmp_path: Path) -> Manifest:
    """A model that one machine promoted and cached; the environment leads to the empty volume of another, and to a Hub
    that is switched off."""
    point_to(monkeypatch, hub, tmp_path / "first")
    point_to_s3(monkeypatch, s3, f"restoration-{secrets.token_hex(4)}")
    stock(hub)
    first = connect()
    manifest = pull(first, MODEL, quantization="Q6_K").manifest
    assert first.s3 is not None
    push(first.volume, first.s3, manifest)
    promotion.promote(first, MODEL, manifest.revision, reason="a test")
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "second"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return manifest


def put(parts: Parts, content: bytes) -> Sha256:
    """An object whose name is right for its content."""
    assert parts.s3 is not None
    digest = Sha256(sha256(content).hexdigest())
    key = f"{parts.s3.label.split('/', 3)[3]}/blobs/sha256/{digest}"
    parts.s3._client().put_object(Bucket=parts.s3.bucket, Key=key, Body=content)
    return digest


def planted(parts: Parts, manifest: Manifest, path: str, content: bytes) -> None:
    """Let a stranger with keys put another file into the snapshot in S3."""
    assert parts.s3 is not None
    other = SnapshotFile(path=path, size=len(content), sha256=put(parts, content))
    files = tuple(other if file.path == path else file for file in manifest.files)
    parts.s3.publish(manifest.model_copy(update={"files": files, "quantization": "planted"}))


def with_segments(manifest: Manifest, segments: Callable[[SnapshotFile], tuple[SegmentDigest, ...]]) -> Manifest:
    files = tuple(file.model_copy(update={"segments": segments(file)}) for file in manifest.files)
    return manifest.model_copy(update={"files": files, "quantization": "of another"})


def test_what_is_promoted_in_s3_comes_back_whole_and_promoted_without_the_hub(cached: Manifest, hub: Service) -> None:
    second = connect()
    hub.reset_stats()
    restored = restore(second, MODEL)
    assert restored.manifest == cached
    assert second.volume.snapshot(MODEL, cached.revision) == cached
    assert second.volume.promoted(MODEL) == cached.revision
    assert {one.origin for one in restored.acquired} == {"s3"}
    assert restored.transferred_bytes == cached.size_bytes
    for file in cached.files:
        assert sha256((restored.path / file.path).read_bytes()).hexdigest() == file.sha256
    assert sum(hub.stats().requests.values()) == 0

    again = restore(second, MODEL)
    assert again.transferred_bytes == 0
    assert {one.origin for one in again.acquired} == {"volume"}


def test_a_worker_with_a_volume_of_its_own_reaches_what_others_onboarded(cached: Manifest) -> None:
    second = connect()
    assert reach(second, MODEL, cached.revision) == cached
    assert second.volume.snapshot(MODEL, cached.revision) == cached
    assert second.volume.promoted(MODEL) is None
    assert benchmark(second, cached, 128).decode_tok_per_s > 0
    with pytest.raises(NotOnVolume, match="is not in s3://"):
        reach(second, MODEL, "f" * 40)
    alone = Parts(second.settings, second.hub, second.volume, None)
    with pytest.raises(NotOnVolume, match="is not on the volume"):
        reach(alone, MODEL, "f" * 40)


def test_a_commit_is_pulled_from_s3_where_the_hub_is_switched_off(cached: Manifest) -> None:
    second = connect()
    pulled = pull(second, MODEL, ref=cached.revision)
    assert {one.origin for one in pulled.acquired} == {"s3"}
    assert pulled.manifest.files == cached.files
    assert {one.origin for one in pull(second, MODEL, ref=cached.revision).acquired} == {"volume"}


def test_a_commit_that_no_store_knows_wants_the_hub(cached: Manifest) -> None:
    with pytest.raises(Exception, match="HF_HUB_OFFLINE is set"):
        pull(connect(), MODEL, ref="0" * 40)


def test_without_promotion_what_is_promoted_stays(cached: Manifest) -> None:
    second = connect()
    restored = restore(second, MODEL, ref=cached.revision, promote=False)
    assert restored.path == second.volume.snapshot_path(MODEL, cached.revision)
    assert second.volume.promoted(MODEL) is None


def test_what_is_not_in_s3_is_said_with_what_is(cached: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotOnVolume, match=f"revisions there: {cached.revision}"):
        restore(connect(), MODEL, ref="0" * 40)
    monkeypatch.delenv("PADDOCK_S3_URI")
    with pytest.raises(BadSetting, match="PADDOCK_S3_URI is not set"):
        restore(connect(), MODEL)


def test_a_wrong_object_under_a_right_name_restores_nothing(cached: Manifest) -> None:
    second = connect()
    assert second.s3 is not None
    file = next(file for file in cached.files if file.path.endswith("2-of-00002.gguf"))
    key = f"{second.s3.label.split('/', 3)[3]}/blobs/sha256/{file.sha256}"
    second.s3._client().put_object(Bucket=second.s3.bucket, Key=key, Body=bytes(file.size))
    with pytest.raises(CorruptFile, match=file.path):
        restore(second, MODEL)
    second.s3.drop_blob(file.sha256)
    with pytest.raises(TransferRefused, match="gone from its source"):
        restore(second, MODEL)
    assert second.volume.snapshots() == []
    assert second.volume.promoted(MODEL) is None


def test_a_model_that_the_audit_rejects_is_not_restored_though_its_digest_is_right(cached: Manifest) -> None:
    second = connect()
    model = next(file.path for file in cached.files if file.path.endswith("1-of-00002.gguf"))
    planted(second, cached, model, unsound())
    with pytest.raises(ModelRejected):
        restore(second, MODEL)
    assert second.volume.snapshots() == []


def test_a_template_that_was_planted_in_the_bucket_is_not_restored(cached: Manifest) -> None:
    second = connect()
    planted(second, cached, "chat_template.jinja", b"{{ cycler.__init__.__globals__ }}")
    with pytest.raises(ModelRejected, match=r"chat_template\.jinja of org/tiny-GGUF"):
        restore(second, MODEL)
    assert second.volume.snapshots() == []


def test_a_manifest_with_another_number_of_segments_is_not_published(cached: Manifest) -> None:
    second = connect()
    assert second.s3 is not None
    wrong = tuple(file.model_copy(update={"segments": file.segments * 2}) for file in cached.files)
    second.s3.publish(cached.model_copy(update={"files": wrong}))
    with pytest.raises(CorruptFile, match=r"has \d+ segments for"):
        restore(second, MODEL)
    assert second.volume.snapshots() == []


def test_a_manifest_with_wrong_digests_of_segments_is_not_published(cached: Manifest) -> None:
    second = connect()
    assert second.s3 is not None
    wrong = with_segments(cached, lambda file: tuple(segment_of(b"another") for _ in file.segments))
    second.s3.publish(wrong)
    with pytest.raises(CorruptFile, match=r"has digests of segments that .* has not"):
        restore(second, MODEL)
    assert second.volume.snapshots() == []


def test_a_manifest_of_before_whose_segments_have_a_sha256_is_restored_as_it_is(
    cached: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = restore(connect(), MODEL).path
    first = with_segments(cached, lambda file: first_segments_of((path / file.path).read_bytes(), cached.segment_bytes))
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "third"))
    third = connect()
    assert third.s3 is not None
    third.s3.publish(first)
    assert restore(third, MODEL).manifest == first
    assert third.volume.snapshot(MODEL, cached.revision) == first


def test_an_s3_that_is_down_is_told_and_the_volume_goes_on(
    cached: Manifest, monkeypatch: pytest.MonkeyPatch, hub: Service
) -> None:
    restore(connect(), MODEL)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    second = connect()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        restore(second, MODEL)
    hub.reset_stats()
    pulled = pull(second, MODEL, quantization="Q6_K")
    assert pulled.transferred_bytes == 0
    assert second.volume.promoted(MODEL) == cached.revision
    hub.repository(NAME).commit({"big/tiny-Q6_K-00001-of-00002.gguf": b"", "next-Q8_0.gguf": tiny(3)})
    with pytest.raises(StoreUnavailable, match="does not answer"):
        pull(second, MODEL, files=["next-Q8_0.gguf"])
    assert second.volume.promoted(MODEL) == cached.revision
    monkeypatch.delenv("PADDOCK_S3_URI")
    assert pull(connect(), MODEL, files=["next-Q8_0.gguf"]).promoted
