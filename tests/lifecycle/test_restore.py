"""A lost volume is restored from S3, without the Hub and without trusting the bucket."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.s3 import S3Server
from paddock.errors import (
    BadSetting,
    CorruptFile,
    ModelRejected,
    NotOnVolume,
    SnapshotDiffers,
    StoreUnavailable,
    TransferRefused,
)
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.acquire.restore import locate_or_restore, restore
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote import promote
from paddock.lifecycle.run.benchmark import benchmark
from paddock.lifecycle.steps import PlainRunner
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.derived_files import DERIVED_FILES
from paddock.model.names import SegmentDigest, Sha256
from paddock.model.reference import Reference
from paddock.store.copying import push
from paddock.store.history import Promoted
from tests.support.segments import first_segments_of, segment_of
from tests.support.stores import Q4, Q8, publish, s3_objects
from tests.support.tiny_hub import (
    MODEL,
    NAME,
    copy_directory,
    fill_repository,
    rejected_model,
    tiny_model,
    use_hub,
    use_s3,
)

PREFIX = f"restoration-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def cached_home(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Manifest, S3Client]]:
    """A directory with a Hub, and a volume with a model that was promoted, and cached below PREFIX in the bucket; and a
    client of the bucket."""
    home = tmp_path_factory.mktemp("cached")
    with pytest.MonkeyPatch.context() as patch, serve_hub(LocalHub(home / "hub")) as hub:
        use_hub(patch, hub, home)
        use_s3(patch, s3, PREFIX)
        fill_repository(hub)
        first = connect()
        manifest = pull(first, Reference.parse(f"{NAME}:Q6_K")).manifest
        assert first.remote is not None
        push(first.volume, first.remote, manifest)
        promote.promote_snapshot(first, manifest.id, reason="a test")
    with closing(s3.client()) as client:
        yield home, manifest, client


@pytest.fixture
def cached(
    monkeypatch: pytest.MonkeyPatch,
    hub: HubService,
    s3: S3Server,
    cached_home: tuple[Path, Manifest, S3Client],
    tmp_path: Path,
) -> Manifest:
    """A model that one machine promoted and cached; the environment leads to the empty volume of another, and to a Hub
    that is switched off."""
    home, manifest, client = cached_home
    copy_directory(home / "hub", tmp_path / "hub")
    copy_directory(home / "models", tmp_path / "first" / "models")
    own = f"{PREFIX}-{secrets.token_hex(4)}"
    for row in client.list_objects_v2(Bucket=s3.bucket, Prefix=f"{PREFIX}/")["Contents"]:
        source = {"Bucket": s3.bucket, "Key": row["Key"]}
        client.copy_object(Bucket=s3.bucket, Key=row["Key"].replace(PREFIX, own, 1), CopySource=source)  # type: ignore[arg-type] # of a type with optional keys
    use_hub(monkeypatch, hub, tmp_path / "first")
    use_s3(monkeypatch, s3, own)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "second"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return manifest


def put(clients: Clients, content: bytes) -> Sha256:
    """An object whose name is right for its content."""
    assert clients.remote is not None
    digest = Sha256(sha256(content).hexdigest())
    key = f"{clients.remote.label.split('/', 3)[3]}/blobs/sha256/{digest}"
    s3_objects(clients).client().put_object(Bucket=s3_objects(clients).bucket, Key=key, Body=content)
    return digest


def planted(clients: Clients, manifest: Manifest, path: str, content: bytes) -> None:
    """Replace a file of the snapshot in S3, as an attacker with keys would."""
    other = SnapshotFile(path=path, size=len(content), sha256=put(clients, content))
    files = tuple(other if file.path == path else file for file in manifest.files)
    write_manifest(clients, replace(manifest, files=files, quantization="planted"))


def write_manifest(clients: Clients, manifest: Manifest, text: str = "") -> None:
    """Write a manifest, or another text, in the place of its snapshot, which S3's store itself never does."""
    assert clients.remote is not None
    key = f"snapshots/{MODEL.slug}/{manifest.revision}/{manifest.variant}.json"
    s3_objects(clients).client().put_object(
        Bucket=s3_objects(clients).bucket,
        Key=f"{clients.remote.label.split('/', 3)[3]}/{key}",
        Body=(text or manifest.to_json()).encode(),
    )


def with_segments(manifest: Manifest, segments: Callable[[SnapshotFile], tuple[SegmentDigest, ...]]) -> Manifest:
    files = tuple(replace(file, segments=segments(file)) for file in manifest.files)
    return replace(manifest, files=files, quantization="of another")


def test_the_snapshot_promoted_in_s3_is_restored_and_promoted_without_the_hub(
    cached: Manifest, hub: HubService
) -> None:
    second = connect()
    hub.reset_stats()
    restored = restore(PlainRunner(second), Reference(MODEL))
    assert restored.manifest == cached
    assert second.volume.snapshot(cached.id) == cached
    assert second.volume.promoted(MODEL) == Promoted(MODEL, cached.variant, {cached.variant: cached.revision})
    assert {one.origin for one in restored.acquired} == {"s3"}
    assert restored.transferred_bytes == sum(file.size for file in cached.files if file.path not in DERIVED_FILES)
    for file in cached.files:
        assert sha256((restored.path / file.path).read_bytes()).hexdigest() == file.sha256
    assert sum(hub.stats().requests.values()) == 0

    again = restore(PlainRunner(second), Reference(MODEL))
    assert again.transferred_bytes == 0
    assert {one.origin for one in again.acquired} == {"volume"}
    (used,) = second.volume.usage.rows()
    assert (used.id, used.kind, used.usage.uses, used.usage.seconds > 0) == (cached.id, "restore", 2, True)


def test_a_worker_with_a_volume_of_its_own_gets_what_others_onboarded(cached: Manifest) -> None:
    second = connect()
    assert locate_or_restore(second, Reference(MODEL, ref=cached.revision)) == cached
    assert second.volume.snapshot(cached.id) == cached
    assert second.volume.promoted(MODEL) == Promoted(MODEL)
    assert benchmark(second, cached, 128).decode_tok_per_s > 0
    unknown = Reference(MODEL, ref="f" * 40)
    with pytest.raises(NotOnVolume, match="is not on s3://"):
        locate_or_restore(second, unknown)
    alone = Clients(second.settings, second.hub, second.volume, None)
    with pytest.raises(NotOnVolume, match="is not on the volume"):
        locate_or_restore(alone, unknown)


def test_a_commit_is_pulled_from_s3_where_the_hub_is_switched_off(cached: Manifest) -> None:
    second = connect()
    pulled = pull(second, Reference(MODEL, ref=cached.revision))
    assert {one.origin for one in pulled.acquired} == {"s3"}
    assert pulled.manifest.files == cached.files
    assert {one.origin for one in pull(second, Reference(MODEL, ref=cached.revision)).acquired} == {"volume"}


def test_a_commit_that_no_store_has_needs_the_hub(cached: Manifest) -> None:
    with pytest.raises(Exception, match="HF_HUB_OFFLINE is set"):
        pull(connect(), Reference(MODEL, ref="0" * 40))


def test_a_restore_without_promotion_leaves_the_promoted_snapshot(cached: Manifest) -> None:
    second = connect()
    restored = restore(PlainRunner(second), Reference(MODEL, ref=cached.revision), promote=False)
    assert restored.path == second.volume.snapshot_path(cached.id)
    assert second.volume.promoted(MODEL) == Promoted(MODEL)


def test_a_snapshot_that_s3_lacks_is_named_with_those_that_it_has(
    cached: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = rf"is not on s3://.* \(Q6_K@{cached.revision[:8]} of {NAME} is there\)"
    for wanted in (Reference(MODEL, ref="0" * 40), Reference(MODEL, Q8)):
        with pytest.raises(NotOnVolume, match=pattern):
            restore(PlainRunner(connect()), wanted)
    monkeypatch.delenv("PADDOCK_S3_URI")
    with pytest.raises(BadSetting, match="PADDOCK_S3_URI is not set"):
        restore(PlainRunner(connect()), Reference(MODEL))


def test_an_object_with_wrong_bytes_is_not_restored(cached: Manifest) -> None:
    second = connect()
    assert second.remote is not None
    file = next(file for file in cached.files if file.path.endswith("2-of-00002.gguf"))
    key = f"{second.remote.label.split('/', 3)[3]}/blobs/sha256/{file.sha256}"
    s3_objects(second).client().put_object(Bucket=s3_objects(second).bucket, Key=key, Body=bytes(file.size))
    with pytest.raises(CorruptFile, match=file.path):
        restore(PlainRunner(second), Reference(MODEL))
    second.remote.drop_blob(file.sha256)
    with pytest.raises(TransferRefused, match="gone from its source"):
        restore(PlainRunner(second), Reference(MODEL))
    assert second.volume.snapshots() == []
    assert second.volume.promoted(MODEL) == Promoted(MODEL)


def test_a_model_that_the_audit_rejects_is_not_restored_though_its_digest_is_right(cached: Manifest) -> None:
    second = connect()
    model = next(file.path for file in cached.files if file.path.endswith("1-of-00002.gguf"))
    planted(second, cached, model, rejected_model())
    with pytest.raises(ModelRejected):
        restore(PlainRunner(second), Reference(MODEL))
    assert second.volume.snapshots() == []


def test_a_template_that_was_planted_in_the_bucket_is_not_restored(cached: Manifest) -> None:
    second = connect()
    planted(second, cached, "chat_template.jinja", b"{{ cycler.__init__.__globals__ }}")
    assert restore(PlainRunner(second), Reference(MODEL)).manifest == cached, "its own template was chosen anew"


def test_a_manifest_with_more_digests_than_segments_is_refused(cached: Manifest) -> None:
    second = connect()
    assert second.remote is not None
    document = json.loads(cached.to_json())
    for file in document["files"]:
        file["segments"] *= 2
    write_manifest(second, cached, json.dumps(document))
    with pytest.raises(CorruptFile, match=r"has \d+ digests of its \d+ segments"):
        restore(PlainRunner(second), Reference(MODEL))
    assert second.volume.snapshots() == []


@pytest.mark.parametrize("kind", ["wrong ones", "sha256, of an older version"])
def test_the_digests_of_segments_are_computed_and_not_taken(
    cached: Manifest, cached_home: tuple[Path, Manifest, S3Client], kind: str
) -> None:
    second = connect()
    path = connect(replace(second.settings, volume=cached_home[0] / "models")).volume.snapshot_path(cached.id)

    def others(file: SnapshotFile) -> tuple[SegmentDigest, ...]:
        if kind == "wrong ones":
            return tuple(segment_of(b"another") for _ in file.segments)
        return first_segments_of((path / file.path).read_bytes(), cached.segment_bytes)

    write_manifest(second, with_segments(cached, others))
    assert restore(PlainRunner(second), Reference(MODEL)).manifest == cached


def test_an_s3_that_is_down_is_reported_and_the_volume_still_serves(
    cached: Manifest, monkeypatch: pytest.MonkeyPatch, hub: HubService
) -> None:
    restore(PlainRunner(connect()), Reference(MODEL))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    second = connect()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        restore(PlainRunner(second), Reference(MODEL))
    hub.reset_stats()
    pulled = pull(second, Reference(MODEL), quantization="Q6_K")
    assert pulled.transferred_bytes == 0
    assert second.volume.promoted(MODEL).default_id == cached.id
    hub.repository(NAME).commit({"big/tiny-Q6_K-00001-of-00002.gguf": b"", "next-Q8_0.gguf": tiny_model(3)})
    with pytest.raises(StoreUnavailable, match="does not answer"):
        pull(second, Reference(MODEL), files=["next-Q8_0.gguf"])
    assert second.volume.promoted(MODEL).default_id == cached.id
    monkeypatch.delenv("PADDOCK_S3_URI")
    assert pull(connect(), Reference(MODEL), files=["next-Q8_0.gguf"]).promoted


@pytest.fixture
def several(cached: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Manifest]:
    """Two more variants in S3, the last one the default there; the environment names another empty volume."""
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "first"))
    with monkeypatch.context() as online:
        online.delenv("HF_HUB_OFFLINE")
        first = connect()
        assert first.remote is not None
        made = [cached]
        for variant in (Q8, Q4):
            made.append(pull(first, Reference(MODEL, variant)).manifest)
            push(first.volume, first.remote, made[-1])
        promote.update_remote_ref(first, MODEL)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "third"))
    return made


def test_one_of_several_variants_is_restored_and_the_default_is_that_of_s3(several: list[Manifest]) -> None:
    split, eight, four = several
    third = connect()
    assert restore(PlainRunner(third), Reference(MODEL, eight.variant)).manifest == eight
    assert third.volume.promoted(MODEL) == Promoted(MODEL, None, {Q8: eight.revision})
    assert third.remote is not None
    assert third.remote.promoted(MODEL).default_id == four.id, "what one machine restores moves no other's default"
    assert restore(PlainRunner(third), Reference(MODEL)).manifest == four
    assert third.volume.promoted(MODEL).default_id == four.id
    restored = restore(PlainRunner(third), Reference(MODEL, split.variant))
    assert restored.path == third.volume.model_path(MODEL, split.variant)
    assert third.volume.promoted(MODEL).default_id == four.id
    assert third.volume.promoted(MODEL) == third.remote.promoted(MODEL)


def test_a_commit_in_s3_is_the_default_s_variant_there_and_a_variant_is_found_ignoring_case(
    several: list[Manifest],
) -> None:
    split, eight, four = several
    third = connect()
    assert restore(PlainRunner(third), Reference(MODEL, ref=eight.revision), promote=False).manifest == four
    assert locate_or_restore(third, Reference.parse(f"{NAME}@{split.revision}:q6_k")) == split


def test_a_snapshot_of_the_volume_with_other_files_than_in_s3_is_kept(cached: Manifest, tmp_path: Path) -> None:
    second = connect()
    second.volume.prepare()
    content = {"other.gguf": tiny_model(3)}
    other = publish(second.volume, cached.revision, content, tmp_path, model=MODEL, variant=cached.variant)
    with pytest.raises(SnapshotDiffers, match="never replaced") as raised:
        restore(PlainRunner(second), Reference(MODEL))
    assert f"`paddock rm {cached.id}`" in raised.value.cure
    assert second.volume.snapshots() == [other]
    second.volume.remove(MODEL, variant=cached.variant, revision=cached.revision)
    assert restore(PlainRunner(second), Reference(MODEL)).manifest == cached
