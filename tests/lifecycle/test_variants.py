"""The twelve rules of variants, one test each, on a volume and a real S3 with a small real model.

The finer cases of a rule are tested where its code is: names in `tests/model/test_variants.py`, links and histories in
`tests/store`, retention in `tests/lifecycle/test_retention.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock import get_model_path_from_name
from paddock.errors import BadSetting, NoPermission, NotOnVolume, UnsafeName
from paddock.gguf.survey import survey_names
from paddock.lifecycle.acquire import restore
from paddock.lifecycle.acquire.pull import Pulled, pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.locate import locate, match_variant, requested_quantization
from paddock.lifecycle.promote import promote, retention
from paddock.lifecycle.steps import PlainRunner
from paddock.model.artifact import Listing, Manifest, RepositoryFile
from paddock.model.names import ModelName, Revision, Sha256
from paddock.model.quantization import group_shards
from paddock.model.reference import Reference, SnapshotId, Variant, parse_variant
from paddock.model.variants import name_variants
from paddock.planning.file_selection import select_files
from paddock.planning.targets import UNBOUNDED
from paddock.store.copying import push
from paddock.store.volume import Volume
from tests.support.stores import Q4, Q8, A, B, C, S3Store, id_of, publish
from tests.support.tiny_hub import MODEL, NAME, Q4_K_M, fill_repository, tiny_model, use_hub, use_s3


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path) -> Clients:
    """An empty volume and an empty S3, beside a Hub with Q8_0, Q4_K_M and a split Q6_K of one commit."""
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"variants-{tmp_path.name}")
    fill_repository(hub)
    return connect()


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = Volume(tmp_path / "bare")
    made.prepare()
    return made


def s3_of(clients: Clients) -> S3Store:
    return S3Store.of(clients)


def pulled(clients: Clients, text: str, quantization: str = "auto") -> Pulled:
    return pull(clients, Reference.parse(text), quantization=quantization, target=UNBOUNDED)


def names_of(*paths: str, size: int = 100) -> dict[str, str]:
    sets = group_shards((path, size) for path in paths)
    return {one.first: name for one, name in name_variants(survey_names(sets).models).items()}


def test_rule_1_a_variant_is_named_by_its_quantization_else_by_its_path(fleet: Clients) -> None:
    assert names_of("m-Q8_0.gguf", "imatrix/m-Q8_0.gguf", "old-m-Q8_0.gguf", "m.gguf") == {
        "m-Q8_0.gguf": "Q8_0",
        "imatrix/m-Q8_0.gguf": "imatrix-m-Q8_0",
        "old-m-Q8_0.gguf": "old-m-Q8_0",
        "m.gguf": "m",
    }
    split = pulled(fleet, f"{NAME}:Q6_K").manifest
    assert (split.variant, split.quantization, split.split) == ("Q6_K", "Q6_K", 2)


def test_rule_1_the_header_says_the_quantization_and_a_name_that_differs_warns(fleet: Clients, hub: HubService) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(3, file_type=Q4_K_M)})
    manifest = pulled(fleet, f"{NAME}:Q8_0").manifest
    assert (manifest.variant, manifest.quantization, manifest.verdict) == ("Q8_0", "Q4_K_M", "warn")


def test_rule_2_names_are_safe_unique_and_found_ignoring_case(fleet: Clients, hub: HubService) -> None:
    long = "a" * 70
    found = names_of(f"{long}.gguf", "a--b..c.gguf", "x y.gguf", "auto.gguf", "Model.gguf", "MODEL.gguf")
    assert len({name.casefold() for name in found.values()}) == len(found)
    assert all(parse_variant(name) == name for name in found.values())
    assert len(found[f"{long}.gguf"]) == 56
    for word in ("auto", "latest", "default", "best"):
        with pytest.raises(UnsafeName, match="reserved"):
            Reference.parse(f"{NAME}:{word}")
    kept = pulled(fleet, f"{NAME}:q4_k_m").manifest
    assert kept.variant == "Q4_K_M"
    assert locate(fleet, Reference.parse(f"{NAME}:Q4_k_M")) == kept
    assert get_model_path_from_name(f"{NAME}:q4_k_m") == fleet.volume.model_path(MODEL, Q4)
    hub.repository(NAME).commit({"tiny-Q4_K_M.gguf": tiny_model(4, file_type=Q4_K_M)})
    pulled(fleet, f"{NAME}:Q4_K_M")
    assert (
        promote.roll_back(fleet, Reference(MODEL, Variant("q4_k_m")), reason="in small letters").revision
        == kept.revision
    )


def test_rule_3_a_model_with_its_projector_is_a_variant_of_its_own() -> None:
    digest = Sha256("0" * 64)
    files = [RepositoryFile(path, 100, digest, None) for path in ("m-Q8_0.gguf", "mmproj-F16.gguf")]
    listing = Listing(MODEL, A, tuple(files), None)
    alone, together = select_files(listing), select_files(listing, projector=True)
    assert (alone.variant, together.variant) == ("Q8_0", "Q8_0-mmproj")
    assert {file.path for file in alone.files} < {file.path for file in together.files}
    by_name = select_files(listing, quantization="q8_0-MMPROJ")
    assert (by_name.variant, by_name.files) == (together.variant, together.files)


def test_rule_4_a_name_that_would_collide_with_another_model_s_is_refused(volume: Volume, tmp_path: Path) -> None:
    old, new = ModelName.parse("gpt2"), ModelName.parse("gpt2/Q8_0")
    publish(volume, A, {"m.gguf": b"1"}, tmp_path, model=old)
    publish(volume, A, {"m.gguf": b"2"}, tmp_path, model=new)
    volume.promote(id_of(A, model=old), reason="first")
    with pytest.raises(NoPermission, match="it shows another model"):
        volume.promote(id_of(A, model=new), reason="second")
    assert volume.promoted(old).default_id == id_of(A, model=old)
    assert volume.promoted(new).default_id is None
    assert volume.model_path(old, Q8) == volume.model_path(new)


def test_rule_4_both_links_are_relative_and_the_default_s_leads_to_the_variant_s(fleet: Clients) -> None:
    manifest = pulled(fleet, f"{NAME}:Q8_0").manifest
    link = fleet.volume.model_path(MODEL)
    assert str(link.readlink()) == "org--tiny-GGUF--Q8_0"
    assert str(fleet.volume.model_path(MODEL, Q8).readlink()) == (
        f".paddock/snapshots/org--tiny-GGUF/{manifest.revision}/Q8_0"
    )
    assert (link / "manifest.json").is_file()


def test_rule_5_a_line_has_both_states_and_no_operation_steps_twice(fleet: Clients) -> None:
    first = pulled(fleet, f"{NAME}:Q8_0").manifest
    second = pulled(fleet, f"{NAME}:Q4_K_M").manifest
    history = fleet.volume.root / ".paddock" / "history" / "org--tiny-GGUF.jsonl"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    states = [
        (one["variant"], one["previous"], one["revision"], one["previous_default"], one["default"]) for one in lines
    ]
    assert states == [
        ("Q8_0", None, first.revision, None, "Q8_0"),
        ("Q4_K_M", None, second.revision, "Q8_0", "Q4_K_M"),
    ]
    once = promote.roll_back(fleet, Reference(MODEL), reason="a test", operation="run-1")
    again = promote.roll_back(fleet, Reference(MODEL), reason="a test", operation="run-1")
    assert once == again
    assert fleet.volume.promoted(MODEL).default == "Q8_0"
    assert len(fleet.volume.history(MODEL)) == 3


def test_rule_6_a_rollback_undoes_the_last_change_of_the_model_or_of_a_variant(fleet: Clients, hub: HubService) -> None:
    first = pulled(fleet, f"{NAME}:Q8_0").manifest
    pulled(fleet, f"{NAME}:Q4_K_M")
    hub.repository(NAME).commit({"tiny-Q4_K_M.gguf": tiny_model(4, file_type=Q4_K_M)})
    newer = pulled(fleet, f"{NAME}:Q4_K_M").manifest
    promote.roll_back(fleet, Reference(MODEL), reason="undo the new revision")
    assert fleet.volume.promoted(MODEL).default_id == SnapshotId(MODEL, first.revision, Q4)
    promote.roll_back(fleet, Reference(MODEL), reason="undo the other variant")
    promoted = fleet.volume.promoted(MODEL)
    assert promoted.default_id == first.id
    assert promoted.of(Q4) == SnapshotId(MODEL, first.revision, Q4), "what loses the default stays promoted"
    promote.promote_snapshot(fleet, newer.id, reason="again", default=False)
    promote.roll_back(fleet, Reference(MODEL, Q4), reason="undo the variant's")
    assert fleet.volume.promoted(MODEL).of(Q4) == SnapshotId(MODEL, first.revision, Q4)
    assert fleet.volume.promoted(MODEL).default_id == first.id
    with pytest.raises(NotOnVolume, match="nothing"):
        promote.roll_back(fleet, Reference(MODEL), reason="there is nothing before")


def test_rule_7_a_person_s_pull_or_promotion_moves_the_default_and_an_entry_s_need_not(fleet: Clients) -> None:
    first = pulled(fleet, f"{NAME}:Q8_0").manifest
    second = pulled(fleet, f"{NAME}:Q4_K_M").manifest
    assert fleet.volume.promoted(MODEL).default == "Q4_K_M"
    promote.promote_snapshot(fleet, first.id, reason="by hand")
    assert fleet.volume.promoted(MODEL).default == "Q8_0"
    promote.promote_snapshot(fleet, second.id, reason="of a catalog entry", default=False)
    assert fleet.volume.promoted(MODEL).default == "Q8_0"


def test_rule_8_a_pull_keeps_the_default_s_variant_while_it_is_there(fleet: Clients, hub: HubService) -> None:
    pulled(fleet, f"{NAME}:Q4_K_M")
    assert pulled(fleet, NAME).manifest.variant == "Q4_K_M"
    assert pulled(fleet, NAME, "best").manifest.variant == "Q8_0"
    pulled(fleet, f"{NAME}:Q4_K_M")
    hub.repository(NAME).commit({"tiny-Q4_K_M.gguf": None})
    switched = pulled(fleet, NAME)
    assert switched.manifest.variant == "Q8_0"
    assert any("Q4_K_M is not kept" in note for note in switched.notes)


def test_rule_9_a_name_means_the_default_and_a_commit_the_default_s_variant_there(
    fleet: Clients, hub: HubService
) -> None:
    first = pulled(fleet, f"{NAME}:Q8_0").manifest
    second = pulled(fleet, f"{NAME}:Q4_K_M").manifest
    assert locate(fleet, Reference.parse(NAME)) == second
    assert locate(fleet, Reference.parse(f"{NAME}@{first.revision[:8]}")) == second
    assert locate(fleet, Reference.parse(f"{NAME}@{first.revision}:Q8_0")) == first
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(5)})
    newer = pulled(fleet, f"{NAME}:Q8_0").manifest
    promote.promote_snapshot(fleet, second.id, reason="the default again")
    assert locate(fleet, Reference.parse(f"{NAME}@{newer.revision}")) == newer, "the only one that is there"
    fleet.volume.remove(MODEL, variant=Q4)
    with pytest.raises(NotOnVolume, match="Q8_0@"):
        locate(fleet, Reference.parse(f"{NAME}:Q4_K_M"))
    with pytest.raises(BadSetting):
        requested_quantization(Variant("Q8_0"), "Q4_K_M")
    assert BadSetting.exit_status == 3


def test_rule_9_several_variants_without_a_default_are_listed(volume: Volume, fleet: Clients) -> None:
    first = pull(fleet, Reference.parse(f"{NAME}:Q8_0"), promote=False).manifest
    pull(fleet, Reference.parse(f"{NAME}:Q4_K_M"), promote=False)
    for text in (NAME, f"{NAME}@{first.revision}"):
        with pytest.raises(NotOnVolume, match="Q4_K_M, Q8_0") as raised:
            locate(fleet, Reference.parse(text))
        assert f"{NAME}:Q4_K_M" in raised.value.cure


def test_rule_10_retention_counts_weights_and_the_default_is_never_pointed_elsewhere(
    fleet: Clients, hub: HubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pulled(fleet, f"{NAME}:Q8_0").manifest
    hub.repository(NAME).commit({"README.md": b"only the card changed"})
    moved = pulled(fleet, f"{NAME}:Q8_0").manifest
    assert first.weights == moved.weights
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "1")
    kept = retention.plan_for(connect(), MODEL, Q8)
    assert not kept.remove, "two commits with one set of weights count once"
    pulled(fleet, f"{NAME}:Q4_K_M")
    fleet.volume.remove(MODEL, variant=Q4)
    assert fleet.volume.promoted(MODEL).default is None
    assert not fleet.volume.model_path(MODEL).is_symlink()
    assert fleet.volume.promoted(MODEL).of(Q8) == moved.id


def test_rule_11_the_ref_in_s3_has_each_variant_and_a_worker_changes_only_its_own(fleet: Clients) -> None:
    first = pulled(fleet, f"{NAME}:Q8_0").manifest
    push(fleet.volume, s3_of(fleet), first)
    promote.update_remote_ref(fleet, MODEL)
    second = pulled(fleet, f"{NAME}:Q4_K_M").manifest
    push(fleet.volume, s3_of(fleet), second)
    promote.update_remote_ref(fleet, MODEL)
    ref = json.loads(_object(s3_of(fleet), "refs/org--tiny-GGUF.json"))
    assert ref == {
        "default": "Q4_K_M",
        "variants": {
            "Q4_K_M": {"revision": second.revision, "previous": None},
            "Q8_0": {"revision": first.revision, "previous": None},
        },
    }


def test_rule_11_a_restored_variant_becomes_the_default_where_it_is_that_in_s3(
    fleet: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests: list[Manifest] = []
    for variant in ("Q8_0", "Q4_K_M"):
        manifests.append(pulled(fleet, f"{NAME}:{variant}").manifest)
        push(fleet.volume, s3_of(fleet), manifests[-1])
    promote.update_remote_ref(fleet, MODEL)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "another"))
    other = connect()
    restore.restore(PlainRunner(other), Reference.parse(NAME))
    restore.restore(PlainRunner(other), Reference.parse(f"{NAME}:Q8_0"))
    assert other.volume.promoted(MODEL) == s3_of(fleet).promoted(MODEL) == fleet.volume.promoted(MODEL)


def test_rule_12_what_moves_a_variant_leaves_others_and_a_name_is_followed_but_no_commit(
    volume: Volume, tmp_path: Path, fleet: Clients
) -> None:
    for revision, content in ((A, b"a"), (B, b"b"), (C, b"c")):
        publish(volume, revision, {"m.gguf": content}, tmp_path)
        publish(volume, revision, {"m4.gguf": content}, tmp_path, variant=Q4)
    volume.promote(id_of(A), reason="by hand")
    volume.promote(id_of(A, Q4), reason="of an entry", default=False)
    volume.promote(id_of(B, Q4), reason="of an entry", default=False)
    promoted = volume.promoted(ModelName.parse("org/name"))
    assert (promoted.default_id, promoted.of(Q4)) == (id_of(A), id_of(B, Q4))
    first = pulled(fleet, f"{NAME}:Q8_0").manifest
    pulled(fleet, f"{NAME}:Q4_K_M")
    assert locate(fleet, Reference.parse(f"{NAME}:Q8_0")) == first
    for text, variant in (("best", None), ("q8_0", "Q8_0"), ("tiny-Q4_K_M.gguf", "Q4_K_M")):
        assert match_variant(fleet, MODEL, text) == variant
    assert locate(fleet, Reference(MODEL, Q8, Revision(first.revision))) == first


def _object(store: S3Store, key: str) -> bytes:
    prefix = store.label.split("/", 3)[3]
    content: bytes = store.client().get_object(Bucket=store.bucket, Key=f"{prefix}/{key}")["Body"].read()
    return content
