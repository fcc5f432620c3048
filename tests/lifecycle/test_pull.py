"""Pulling, from the Hub's listing to a promoted snapshot, with the real transfer, volume and audit."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock import get_gguf_file_path
from paddock.errors import (
    BadSetting,
    CorruptFile,
    ModelGated,
    ModelNotFound,
    ModelRejected,
    NoGguf,
    NoPermission,
    NotEnoughDisk,
    SnapshotDiffers,
)
from paddock.lifecycle.acquire import fetch
from paddock.lifecycle.acquire import plan as acquisition
from paddock.lifecycle.acquire import pull as pulling
from paddock.lifecycle.acquire.publish import publish as publish_acquired
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess import audit
from paddock.lifecycle.clients import Clients, connect
from paddock.model.finding import Verdict
from paddock.model.names import Sha256
from paddock.model.reference import Reference, SnapshotId
from paddock.planning.file_selection import select_files
from paddock.store.copying import push
from paddock.store.history import Promoted
from tests.support.gguf import tiny_llama
from tests.support.segments import segment_of
from tests.support.stores import Q4, Q8, publish
from tests.support.tiny_hub import (
    MODEL,
    NAME,
    Q4_K_M,
    fill_repository,
    projector,
    rejected_model,
    tiny_model,
    use_hub,
    use_s3,
)

SMALL_FILES = ["config.json", "tokenizer_config.json"]


def test_a_pulled_model_is_complete_audited_and_promoted(clients: Clients) -> None:
    pulled = pull(clients, Reference(MODEL))
    path = clients.settings.volume / "org--tiny-GGUF"
    assert pulled.path == path
    assert path.resolve() == clients.volume.snapshot_path(pulled.manifest.id).resolve()
    assert (path / "tiny-Q8_0.gguf").read_bytes() == tiny_model()
    assert sorted(file.name for file in path.iterdir()) == sorted(
        [*SMALL_FILES, "tiny-Q8_0.gguf", "chat_template.jinja", "chat.paddock.json", "manifest.json"]
    )
    assert pulled.manifest.variant == pulled.manifest.quantization == "Q8_0"
    assert pulled.manifest.licence == "mit"
    assert pulled.manifest.verdict is not Verdict.REJECT


def test_a_second_pull_fetches_no_byte_and_leaves_the_snapshot_as_it_is(clients: Clients, hub: HubService) -> None:
    first = pull(clients, Reference(MODEL))
    hub.reset_stats()
    second = pull(clients, Reference(MODEL))
    assert second.transferred_bytes == 0
    assert {one.origin for one in second.acquired} == {"volume"}
    assert hub.stats().total_bytes_sent == 0
    assert second.manifest == first.manifest


def test_only_what_is_needed_is_fetched(clients: Clients, hub: HubService) -> None:
    hub.repository(NAME).commit({"big/tiny-Q6_K-00001-of-00002.gguf": None, "big/tiny-Q6_K-00002-of-00002.gguf": None})
    pull(clients, Reference(MODEL))
    sent = {path.removeprefix(f"{NAME}/") for path in hub.stats().bytes_sent}
    assert sent == {*SMALL_FILES, "tiny-Q8_0.gguf"}


def test_a_quantization_can_be_chosen_and_a_split_one_is_fetched_with_all_shards(clients: Clients) -> None:
    pulled = pull(clients, Reference(MODEL), quantization="Q6_K")
    assert pulled.manifest.split == 2
    assert [file.path for file in pulled.manifest.files if file.path.endswith(".gguf")] == [
        "big/tiny-Q6_K-00001-of-00002.gguf",
        "big/tiny-Q6_K-00002-of-00002.gguf",
    ]


def test_two_quantizations_of_a_commit_are_two_snapshots(clients: Clients, hub: HubService) -> None:
    first = pull(clients, Reference(MODEL))
    hub.reset_stats()
    second = pull(clients, Reference(MODEL), quantization="Q4_K_M")
    assert second.manifest.id == replace(first.manifest.id, variant=Q4)
    names = {file.path for file in second.manifest.files}
    assert "tiny-Q4_K_M.gguf" in names
    assert "tiny-Q8_0.gguf" not in names
    assert set(hub.stats().bytes_sent) == {f"{NAME}/tiny-Q4_K_M.gguf"}, "the small files are there"
    revision = first.manifest.revision
    assert clients.volume.promoted(MODEL) == Promoted(MODEL, Q4, {Q8: revision, Q4: revision})
    assert clients.volume.snapshots(MODEL) == [first.manifest, second.manifest]
    assert (clients.volume.model_path(MODEL, Q8) / "tiny-Q8_0.gguf").read_bytes() == tiny_model()
    assert (clients.volume.model_path(MODEL) / "tiny-Q4_K_M.gguf").read_bytes() == tiny_model(file_type=Q4_K_M)


def test_another_variant_of_the_promoted_commit_leaves_the_promoted_one(clients: Clients) -> None:
    before = pull(clients, Reference(MODEL))
    pulled = pull(clients, Reference(MODEL), quantization="Q4_K_M", promote=False)
    assert pulled.path == clients.volume.snapshot_path(pulled.manifest.id)
    assert (before.path / "tiny-Q8_0.gguf").read_bytes() == tiny_model()
    assert clients.volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: before.manifest.revision})
    assert pull(clients, Reference(MODEL), promote=False).manifest == before.manifest


def test_a_variant_that_is_served_stays_while_another_one_of_its_commit_is_pulled(clients: Clients) -> None:
    served = pull(clients, Reference(MODEL)).manifest
    with clients.volume.lease(served.id) as path:
        pulled = pull(clients, Reference(MODEL), quantization="Q4_K_M")
        assert (path / "tiny-Q8_0.gguf").read_bytes() == tiny_model()
        assert clients.volume.in_use(served.id)
        assert not clients.volume.in_use(pulled.manifest.id)


def test_variants_that_are_acquired_at_the_same_time_are_both_published(clients: Clients) -> None:
    listing = clients.hub.listing(MODEL)
    choice = select_files(listing, quantization="Q4_K_M")
    clients.volume.prepare()
    plan = acquisition.plan(clients, listing, choice)
    assert plan.id == SnapshotId(MODEL, listing.revision, Q4)
    acquired = [fetch.fetch_file(clients, listing, row) for row in plan.files]
    audited = audit.audit_acquired(clients, listing, choice, acquired)
    meanwhile = pull(clients, Reference(MODEL)).manifest
    published = publish_acquired(clients, plan, acquired, audited).manifest
    assert clients.volume.snapshots(MODEL) == [meanwhile, published]
    assert clients.volume.promoted(MODEL).default_id == meanwhile.id


def test_a_snapshot_of_that_name_with_other_files_is_never_replaced_and_the_cure_helps(
    clients: Clients, hub: HubService, tmp_path: Path
) -> None:
    revision = clients.hub.listing(MODEL).revision
    clients.volume.prepare()
    other = publish(clients.volume, revision, {"other.gguf": tiny_model(3)}, tmp_path, model=MODEL)
    hub.reset_stats()
    with pytest.raises(SnapshotDiffers, match="never replaced") as raised:
        pull(clients, Reference(MODEL))
    sent = hub.stats().bytes_sent.keys()
    assert all(path.endswith(".gguf") for path in sent), "nothing but the headers of the preflight"
    assert not clients.volume.has_blob(Sha256(sha256(tiny_model()).hexdigest()), len(tiny_model()))
    assert clients.volume.snapshots(MODEL) == [other]
    assert f"`paddock rm {other.id}`" in raised.value.cure
    clients.volume.remove(MODEL, variant=other.variant, revision=other.revision)
    assert (pull(clients, Reference(MODEL)).path / "tiny-Q8_0.gguf").read_bytes() == tiny_model()


def test_a_snapshot_that_another_process_published_meanwhile_is_kept(clients: Clients, tmp_path: Path) -> None:
    listing = clients.hub.listing(MODEL)
    choice = select_files(listing)
    clients.volume.prepare()
    plan = acquisition.plan(clients, listing, choice)
    acquired = [fetch.fetch_file(clients, listing, row) for row in plan.files]
    audited = audit.audit_acquired(clients, listing, choice, acquired)
    other = publish(clients.volume, listing.revision, {"other.gguf": tiny_model(3)}, tmp_path, model=MODEL)
    with pytest.raises(SnapshotDiffers, match="never replaced"):
        publish_acquired(clients, plan, acquired, audited)
    assert clients.volume.snapshots(MODEL) == [other]


def test_every_chosen_gguf_is_audited(clients: Clients, hub: HubService) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": rejected_model()})
    with pytest.raises(ModelRejected):
        pull(clients, Reference(MODEL), files=["tiny-Q8_0.gguf"])
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(), "mmproj-F16.gguf": b"GGUF and no more"})
    with pytest.raises(ModelRejected, match="mmproj"):
        pull(clients, Reference(MODEL), projector=True)
    assert clients.volume.snapshots() == []


def test_the_manifest_of_a_model_with_a_projector_describes_the_model(clients: Clients, hub: HubService) -> None:
    hub.repository(NAME).commit({"mmproj-F16.gguf": projector()})
    pulled = pull(clients, Reference(MODEL), files=["mmproj-F16.gguf", "tiny-Q4_K_M.gguf"])
    assert (pulled.manifest.variant, pulled.manifest.quantization) == ("Q4_K_M-mmproj", "Q4_K_M")
    assert get_gguf_file_path(pulled.path).name == "tiny-Q4_K_M.gguf"


def test_a_model_with_its_projector_is_another_snapshot_that_shares_its_blobs(
    clients: Clients, hub: HubService
) -> None:
    hub.repository(NAME).commit({"mmproj-F16.gguf": projector()})
    alone = pull(clients, Reference(MODEL)).manifest
    hub.reset_stats()
    together = pull(clients, Reference.parse(f"{NAME}:Q8_0-mmproj"))
    assert together.manifest.variant == "Q8_0-mmproj"
    assert together.transferred_bytes == len(projector())
    assert set(hub.stats().bytes_sent) == {f"{NAME}/mmproj-F16.gguf"}
    paths = [clients.volume.snapshot_path(one.id) / "tiny-Q8_0.gguf" for one in (alone, together.manifest)]
    assert paths[0].samefile(paths[1])
    assert set(clients.volume.promoted(MODEL).revisions) == {"Q8_0", "Q8_0-mmproj"}
    assert pull(clients, Reference(MODEL)).manifest == together.manifest, "the default's variant is kept"


def test_two_models_are_two_snapshots_and_not_one(clients: Clients, hub: HubService) -> None:
    hub.reset_stats()
    with pytest.raises(BadSetting, match="2 models, and a snapshot has one") as raised:
        pull(clients, Reference(MODEL), files=["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"])
    assert "pull each by itself" in raised.value.cure
    assert clients.volume.snapshots(MODEL) == []
    variants = [pull(clients, Reference(MODEL), files=[f"tiny-{name}.gguf"]).manifest.variant for name in (Q4, Q8)]
    assert variants == [Q4, Q8]


@pytest.mark.parametrize("name", ["chat_template.jinja/m-Q8_0.gguf", "manifest.json/m-Q8_0.gguf"])
def test_a_repository_with_a_file_named_like_a_derived_one_is_refused_before_a_weight_is_fetched(
    clients: Clients, hub: HubService, name: str
) -> None:
    hub.repository("org/odd").commit({name: tiny_model()})
    hub.reset_stats()
    with pytest.raises(ModelRejected, match="also a directory"):
        pull(clients, Reference.parse("org/odd"))
    assert hub.stats().total_bytes_sent <= len(tiny_model()), "the header of the preflight"
    assert not list(clients.volume.partial.glob("*"))


def test_a_snapshot_that_is_not_promoted_leaves_the_promoted_one(clients: Clients, hub: HubService) -> None:
    before = pull(clients, Reference(MODEL)).manifest
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(3)})
    pulled = pull(clients, Reference(MODEL), promote=False)
    assert pulled.manifest.revision != before.revision
    assert clients.volume.promoted(MODEL).default_id == before.id
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny_model(3)


def test_a_commit_and_a_tag_are_pulled_as_they_were(clients: Clients, hub: HubService) -> None:
    repository = hub.repository(NAME)
    old = repository.resolve("main")
    assert old is not None
    repository.tag("v1", at=old.id)
    repository.commit({"tiny-Q8_0.gguf": tiny_model(4)})
    assert pull(clients, Reference(MODEL, ref="v1")).manifest.revision == old.id
    assert pull(clients, Reference(MODEL, ref=old.id)).manifest.revision == old.id


def test_a_model_that_the_audit_rejects_is_not_published_and_leaves_what_was_promoted(
    clients: Clients, hub: HubService
) -> None:
    before = pull(clients, Reference(MODEL)).manifest
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": rejected_model()})
    with pytest.raises(ModelRejected, match="eps"):
        pull(clients, Reference(MODEL), quantization="Q8_0")
    assert clients.volume.promoted(MODEL).default_id == before.id
    assert clients.volume.snapshots(MODEL) == [before]


def test_a_flipped_bit_is_fetched_again(clients: Clients, hub: HubService) -> None:
    hub.inject("flip", f"{NAME}/tiny-Q8_0.gguf", offset=20_000)
    pulled = pull(clients, Reference(MODEL))
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny_model()


def test_a_damaged_blob_of_a_killed_run_is_quarantined_and_fetched_again(clients: Clients, hub: HubService) -> None:
    digest = Sha256(sha256(tiny_model()).hexdigest())
    blob = clients.volume.blob_path(digest)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(len(tiny_model())))
    pulled = pull(clients, Reference(MODEL))
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny_model()
    assert {one.origin for one in pulled.acquired} == {"hub"}


def test_a_sound_blob_of_a_killed_run_is_used(clients: Clients, hub: HubService) -> None:
    clients.volume.prepare()
    clients.volume.add_bytes(tiny_model())
    pulled = pull(clients, Reference(MODEL))
    assert f"{NAME}/tiny-Q8_0.gguf" not in hub.stats().bytes_sent
    (model,) = (file for file in pulled.manifest.files if file.path == "tiny-Q8_0.gguf")
    assert model.segments == (segment_of(tiny_model()),)


def test_a_source_that_always_sends_a_wrong_bit_is_refused_and_nothing_is_visible(
    clients: Clients, hub: HubService
) -> None:
    hub.inject("flip", f"{NAME}/tiny-Q8_0.gguf", offset=20_000, times=None)
    with pytest.raises(CorruptFile):
        pull(clients, Reference(MODEL))
    assert clients.volume.snapshots() == []
    assert not (clients.settings.volume / MODEL.slug).exists()


def test_the_second_machine_of_a_fleet_fetches_everything_from_s3(
    monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path
) -> None:
    use_hub(monkeypatch, hub, tmp_path / "first")
    use_s3(monkeypatch, s3, "fleet")
    fill_repository(hub)
    first = connect()
    assert first.remote is not None
    push(first.volume, first.remote, pull(first, Reference(MODEL)).manifest)
    hub.reset_stats()

    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "second"))
    pulled = pull(connect(), Reference(MODEL))
    assert {one.origin for one in pulled.acquired} == {"s3"}
    assert hub.stats().total_bytes_sent == 0
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny_model()


@pytest.mark.parametrize(
    ("name", "error"),
    [("nobody/nothing", ModelNotFound), ("org/gated", ModelGated), ("org/weights", NoGguf)],
)
def test_a_pull_that_is_not_possible_states_the_reason(
    clients: Clients, hub: HubService, name: str, error: type[Exception]
) -> None:
    hub.repository("org/gated", gated=True).commit({"tiny-Q8_0.gguf": tiny_model()})
    hub.repository("org/weights").commit({"model.safetensors": b"x" * 64, "config.json": b"{}"})
    with pytest.raises(error, match=name.split("/")[1]):
        pull(clients, Reference.parse(name))


def test_too_little_disk_space_is_reported_before_the_first_byte(clients: Clients, hub: HubService) -> None:
    free = clients.volume.disk.free_bytes()
    listing = clients.hub.listing(MODEL)
    huge = next(file for file in select_files(listing).files if file.path.endswith(".gguf"))
    assert huge.size < free
    with pytest.raises(NotEnoughDisk, match="missing"):
        clients.volume.disk.require(free + huge.size)
    assert hub.stats().total_bytes_sent == 0


def test_a_volume_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "file" / "models"))
    with pytest.raises(NoPermission, match="file"):
        pulling.pull(connect(), Reference(MODEL))


def model_with_nan_weights() -> bytes:
    """A model whose header is sound, and one of whose weights is no number."""
    file = tiny_llama()
    file.tensor("output_norm.weight").data = struct.pack("<32f", *([1.0] * 31), math.nan)
    return file.to_bytes()


@pytest.mark.parametrize("stored", [False, True], ids=["fetched", "a blob that no manifest lists"])
def test_weights_that_are_not_finite_are_never_published(clients: Clients, hub: HubService, stored: bool) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": model_with_nan_weights()})
    clients.volume.prepare()
    if stored:
        clients.volume.add_bytes(model_with_nan_weights())
    with pytest.raises(ModelRejected, match=r"gguf\.weights\.finite at byte \d+"):
        pull(clients, Reference(MODEL))
    assert clients.volume.snapshots(MODEL) == []


def test_weights_that_were_fetched_out_of_order_are_read_again(clients: Clients) -> None:
    listing = clients.hub.listing(MODEL)
    choice = select_files(listing)
    clients.volume.prepare()
    plan = acquisition.plan(clients, listing, choice)
    acquired = [fetch.fetch_file(clients, listing, row) for row in plan.files]
    assert [one.weights for one in acquired] == [()] * len(acquired)
    spoilt_digest = clients.volume.add_bytes(model_with_nan_weights())
    unseen = [
        replace(one, file=replace(one.file, sha256=spoilt_digest), weights=None)
        if one.file.path.endswith(".gguf")
        else one
        for one in acquired
    ]
    audited = audit.audit_acquired(clients, listing, choice, unseen)
    assert [finding.rule for finding in audited.audit.findings] == ["gguf.weights.finite"]
