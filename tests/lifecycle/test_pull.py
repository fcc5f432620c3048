"""Pulling: from the Hub's listing to a promoted snapshot, with the real transfer, volume and audit."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from infra.local.hub import Service
from infra.local.s3 import S3Server
from paddock import get_gguf_file_path
from paddock.errors import (
    CorruptFile,
    InUse,
    ModelGated,
    ModelNotFound,
    ModelRejected,
    NoGguf,
    NoPermission,
    NotEnoughDisk,
    UnsafeName,
)
from paddock.lifecycle import acquisition, auditing, delivery
from paddock.lifecycle import pull as pulling
from paddock.lifecycle.parts import Parts, connect
from paddock.lifecycle.pull import pull
from paddock.model.finding import Verdict
from paddock.model.names import ModelName, Sha256
from paddock.planning.choice import choose
from paddock.store.copying import push
from tests.support.gguf import CHATML, tiny_llama
from tests.support.house import MODEL, NAME, point_to, point_to_s3, stock, tiny, unsound
from tests.support.segments import segment_of

SMALL_FILES = ["config.json", "tokenizer_config.json"]


def test_a_pulled_model_is_whole_audited_and_promoted(parts: Parts) -> None:
    pulled = pull(parts, MODEL)
    path = parts.settings.volume / "org--tiny-GGUF"
    assert pulled.path == path
    assert path.resolve().name == pulled.manifest.revision
    assert (path / "tiny-Q8_0.gguf").read_bytes() == tiny()
    assert sorted(file.name for file in path.iterdir()) == sorted(
        [*SMALL_FILES, "tiny-Q8_0.gguf", "chat_template.jinja", "chat.paddock.json", "manifest.json"]
    )
    assert pulled.manifest.quantization == "Q8_0"
    assert pulled.manifest.licence == "mit"
    assert pulled.manifest.verdict is not Verdict.REJECT


def test_a_second_pull_fetches_no_byte_and_leaves_the_snapshot_as_it_is(parts: Parts, hub: Service) -> None:
    first = pull(parts, MODEL)
    hub.reset_stats()
    second = pull(parts, MODEL)
    assert second.transferred_bytes == 0
    assert {one.origin for one in second.acquired} == {"volume"}
    assert hub.stats().total_bytes_sent == 0
    assert second.manifest == first.manifest


def test_only_what_is_needed_is_fetched(parts: Parts, hub: Service) -> None:
    pull(parts, MODEL)
    sent = {path.removeprefix(f"{NAME}/") for path in hub.stats().bytes_sent}
    assert sent == {*SMALL_FILES, "tiny-Q8_0.gguf"}


def test_a_quantization_can_be_chosen_and_a_split_one_comes_whole(parts: Parts) -> None:
    pulled = pull(parts, MODEL, quantization="Q6_K")
    assert pulled.manifest.split == 2
    assert [file.path for file in pulled.manifest.files if file.path.endswith(".gguf")] == [
        "big/tiny-Q6_K-00001-of-00002.gguf",
        "big/tiny-Q6_K-00002-of-00002.gguf",
    ]


def test_another_quantization_of_the_same_commit_takes_the_place_of_the_first(parts: Parts) -> None:
    pull(parts, MODEL)
    pulled = pull(parts, MODEL, quantization="Q4_K_M")
    names = {file.path for file in pulled.manifest.files}
    assert "tiny-Q4_K_M.gguf" in names
    assert "tiny-Q8_0.gguf" not in names
    assert parts.volume.promoted(MODEL) == pulled.manifest.revision


def test_another_choice_of_the_promoted_commit_is_refused_before_the_first_byte(parts: Parts, hub: Service) -> None:
    before = pull(parts, MODEL)
    hub.reset_stats()
    with pytest.raises(InUse, match="Q8_0 is promoted, and a commit has one choice of files, so Q4_K_M has no place"):
        pull(parts, MODEL, quantization="Q4_K_M", promote=False)
    assert hub.stats().total_bytes_sent == 0
    assert (before.path / "tiny-Q8_0.gguf").read_bytes() == tiny()
    assert pull(parts, MODEL, promote=False).manifest == before.manifest


def test_another_choice_of_a_commit_that_is_served_is_refused(parts: Parts, hub: Service) -> None:
    revision = pull(parts, MODEL).manifest.revision
    hub.reset_stats()
    with parts.volume.lease(MODEL, revision), pytest.raises(InUse, match="is being served"):
        pull(parts, MODEL, quantization="Q4_K_M")
    assert hub.stats().total_bytes_sent == 0


def test_another_choice_that_takes_its_place_meanwhile_is_refused_at_the_end(parts: Parts) -> None:
    listing = parts.hub.listing(MODEL)
    choice = choose(listing, quantization="Q4_K_M")
    parts.volume.prepare()
    plan = acquisition.plan(parts, listing, choice)
    acquisition.require_place(parts, plan)
    acquired = [delivery.acquire_file(parts, listing, row) for row in plan.rows]
    audited = auditing.audit_acquired(parts, listing, choice, acquired)
    pull(parts, MODEL)
    with pytest.raises(InUse, match="Q8_0 is promoted"):
        acquisition.publish(parts, listing, choice, acquired, audited=audited)


def test_every_chosen_gguf_is_audited(parts: Parts, hub: Service) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": unsound()})
    with pytest.raises(ModelRejected):
        pull(parts, MODEL, files=["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"])
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny(), "mmproj-F16.gguf": b"GGUF and no more"})
    with pytest.raises(ModelRejected, match="mmproj"):
        pull(parts, MODEL, projector=True)
    assert parts.volume.snapshots() == []


def test_of_several_chosen_the_manifest_names_the_one_that_will_be_loaded(parts: Parts) -> None:
    pulled = pull(parts, MODEL, files=["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"])
    assert pulled.manifest.quantization == "Q8_0"
    assert get_gguf_file_path(pulled.path).name == "tiny-Q8_0.gguf"


@pytest.mark.parametrize("name", ["chat_template.jinja/m-Q8_0.gguf", "manifest.json/m-Q8_0.gguf"])
def test_a_file_in_the_place_of_our_own_is_refused_before_a_byte(parts: Parts, hub: Service, name: str) -> None:
    hub.repository("org/odd").commit({name: tiny()})
    hub.reset_stats()
    with pytest.raises(UnsafeName, match="also a directory"):
        pull(parts, ModelName.parse("org/odd"))
    assert hub.stats().total_bytes_sent == 0


def test_what_is_not_promoted_lies_beside_what_is(parts: Parts, hub: Service) -> None:
    before = pull(parts, MODEL).manifest.revision
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny(3)})
    pulled = pull(parts, MODEL, promote=False)
    assert pulled.manifest.revision != before
    assert parts.volume.promoted(MODEL) == before
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny(3)


def test_a_commit_and_a_tag_are_pulled_as_they_were(parts: Parts, hub: Service) -> None:
    repository = hub.repository(NAME)
    old = repository.resolve("main")
    assert old is not None
    repository.tag("v1", at=old.id)
    repository.commit({"tiny-Q8_0.gguf": tiny(4)})
    assert pull(parts, MODEL, ref="v1").manifest.revision == old.id
    assert pull(parts, MODEL, ref=old.id).manifest.revision == old.id


def test_a_model_that_the_audit_rejects_is_not_published_and_leaves_what_was_promoted(
    parts: Parts, hub: Service
) -> None:
    before = pull(parts, MODEL).manifest.revision
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": unsound()})
    with pytest.raises(ModelRejected, match="eps"):
        pull(parts, MODEL)
    assert parts.volume.promoted(MODEL) == before
    assert [manifest.revision for manifest in parts.volume.snapshots(MODEL)] == [before]


def test_a_flipped_bit_costs_no_wrong_byte(parts: Parts, hub: Service) -> None:
    hub.order("flip", f"{NAME}/tiny-Q8_0.gguf", offset=20_000)
    pulled = pull(parts, MODEL)
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny()


def test_a_damaged_blob_that_a_dead_run_left_is_put_aside_and_fetched_again(parts: Parts, hub: Service) -> None:
    digest = Sha256(sha256(tiny()).hexdigest())
    blob = parts.volume.blob_path(digest)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(len(tiny())))
    pulled = pull(parts, MODEL)
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny()
    assert {one.origin for one in pulled.acquired} == {"hub"}


def test_a_sound_blob_that_a_dead_run_left_is_taken_as_it_is(parts: Parts, hub: Service) -> None:
    parts.volume.prepare()
    parts.volume.add_bytes(tiny())
    pulled = pull(parts, MODEL)
    assert f"{NAME}/tiny-Q8_0.gguf" not in hub.stats().bytes_sent
    (model,) = (file for file in pulled.manifest.files if file.path == "tiny-Q8_0.gguf")
    assert model.segments == (segment_of(tiny()),)


def test_a_source_that_always_sends_a_wrong_bit_is_refused_and_nothing_is_visible(parts: Parts, hub: Service) -> None:
    hub.order("flip", f"{NAME}/tiny-Q8_0.gguf", offset=20_000, times=None)
    with pytest.raises(CorruptFile):
        pull(parts, MODEL)
    assert parts.volume.snapshots() == []
    assert not (parts.settings.volume / MODEL.slug).exists()


def test_the_second_machine_of_a_fleet_takes_everything_from_s3(
    monkeypatch: pytest.MonkeyPatch, hub: Service, s3: S3Server, tmp_path: Path
) -> None:
    point_to(monkeypatch, hub, tmp_path / "first")
    point_to_s3(monkeypatch, s3, "fleet")
    stock(hub)
    first = connect()
    assert first.s3 is not None
    push(first.volume, first.s3, pull(first, MODEL).manifest)
    hub.reset_stats()

    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "second"))
    pulled = pull(connect(), MODEL)
    assert {one.origin for one in pulled.acquired} == {"s3"}
    assert hub.stats().total_bytes_sent == 0
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny()


@pytest.mark.parametrize(
    ("name", "error"),
    [("nobody/nothing", ModelNotFound), ("org/gated", ModelGated), ("org/weights", NoGguf)],
)
def test_what_cannot_be_pulled_says_why(parts: Parts, hub: Service, name: str, error: type[Exception]) -> None:
    hub.repository("org/gated", gated=True).commit({"tiny-Q8_0.gguf": tiny()})
    hub.repository("org/weights").commit({"model.safetensors": b"x" * 64, "config.json": b"{}"})
    with pytest.raises(error, match=name.split("/")[1]):
        pull(parts, ModelName.parse(name))


def test_too_little_room_is_known_before_the_first_byte(parts: Parts, hub: Service) -> None:
    free = parts.volume.free_bytes()
    listing = parts.hub.listing(MODEL)
    huge = next(file for file in choose(listing).files if file.path.endswith(".gguf"))
    assert huge.size < free
    with pytest.raises(NotEnoughDisk, match="missing"):
        parts.volume.require_room(free + huge.size)
    assert hub.stats().total_bytes_sent == 0


def test_a_volume_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, parts: Parts, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "file" / "models"))
    with pytest.raises(NoPermission, match="file"):
        pulling.pull(connect(), MODEL)


def spoilt() -> bytes:
    """A model whose header is sound, and one of whose weights is no number."""
    file = tiny_llama()
    file.tensor("output_norm.weight").data = struct.pack("<32f", *([1.0] * 31), math.nan)
    return file.to_bytes()


@pytest.mark.parametrize("there", [False, True], ids=["fetched", "a blob that nobody vouches for"])
def test_weights_that_are_not_finite_are_never_published(parts: Parts, hub: Service, there: bool) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": spoilt()})
    parts.volume.prepare()
    if there:
        parts.volume.add_bytes(spoilt())
    with pytest.raises(ModelRejected, match=r"gguf\.weights\.finite at byte \d+"):
        pull(parts, MODEL)
    assert parts.volume.snapshots(MODEL) == []


def test_weights_that_passed_in_disorder_are_read_again(parts: Parts) -> None:
    listing = parts.hub.listing(MODEL)
    choice = choose(listing)
    parts.volume.prepare()
    plan = acquisition.plan(parts, listing, choice)
    acquired = [delivery.acquire_file(parts, listing, row) for row in plan.rows]
    assert [one.weights for one in acquired] == [()] * len(acquired)
    spoilt_digest = parts.volume.add_bytes(spoilt())
    unseen = [
        replace(one, file=one.file.model_copy(update={"sha256": spoilt_digest}), weights=None)
        if one.file.path.endswith(".gguf")
        else one
        for one in acquired
    ]
    audited = auditing.audit_acquired(parts, listing, choice, unseen)
    assert [finding.rule for finding in audited.audit.findings] == ["gguf.weights.finite"]


def test_what_the_engine_needs_to_speak_with_a_model_is_published_with_it(parts: Parts, hub: Service) -> None:
    pulled = pull(parts, MODEL)
    chat = json.loads((pulled.path / "chat.paddock.json").read_text())
    assert chat == {
        "schema": 1,
        "template_sha256": pulled.manifest.template_sha256,
        "origin": "the GGUF",
        "why": "the model brings it",
        "bos": "<s>",
        "eos": "</s>",
        "stop": ["<|im_end|>", "<|im_start|>user"],
    }


def test_the_repositorys_own_template_is_taken_where_the_file_has_none(parts: Parts, hub: Service) -> None:
    other = ModelName.parse("org/bare-GGUF")
    own = CHATML + "{# beside #}"
    bare = tiny_llama(template=None).to_bytes()
    hub.repository(str(other)).commit({"bare-Q8_0.gguf": bare, "chat_template.jinja": own.encode()})
    path = pull(parts, other).path
    assert (path / "chat_template.jinja").read_text() == own
    assert json.loads((path / "chat.paddock.json").read_text())["origin"] == "chat_template.jinja"
    assert {one.origin for one in pull(parts, other).acquired} == {"volume"}


def test_a_template_that_was_published_stays_whatever_would_be_chosen_now(parts: Parts) -> None:
    pulled = pull(parts, MODEL)
    digest = parts.volume.add_bytes(b"{# of an older Paddock #}")
    files = [
        file.model_copy(update={"sha256": digest, "size": 25, "segments": ()})
        if file.path == "chat_template.jinja"
        else file
        for file in pulled.manifest.files
        if file.path != "chat.paddock.json"
    ]
    older = pulled.manifest.model_copy(update={"files": tuple(files), "template_sha256": digest})
    parts.volume.publish(older)
    again = pull(parts, MODEL).manifest
    assert again.files == older.files
    assert again.template_sha256 == digest


@pytest.mark.parametrize("harm", ["a flipped bit", "gone"])
def test_a_file_that_was_made_here_is_made_again_where_it_is_damaged(parts: Parts, harm: str) -> None:
    pulled = pull(parts, MODEL)
    derived = [file for file in pulled.manifest.files if "chat" in file.path]
    assert len(derived) == 2
    for file in derived:
        blob = parts.volume.blob_path(file.sha256)
        if harm == "gone":
            blob.unlink()
        else:
            content = bytearray(blob.read_bytes())
            content[0] ^= 1
            blob.chmod(0o644)
            blob.write_bytes(content)
    again = pull(parts, MODEL).manifest
    assert again.files == pulled.manifest.files
    for file in derived:
        assert sha256((pulled.path / file.path).read_bytes()).hexdigest() == file.sha256


def test_a_repository_that_holds_what_a_snapshot_says_of_itself_is_pulled_without_it(
    parts: Parts, hub: Service
) -> None:
    other = ModelName.parse("org/copied-GGUF")
    hub.repository(str(other)).commit(
        {"tiny-Q8_0.gguf": tiny(), "chat.paddock.json": b"{}", "manifest.json": b"{}", "config.json": b"{}"}
    )
    pulled = pull(parts, other)
    assert json.loads((pulled.path / "chat.paddock.json").read_text())["origin"] == "the GGUF"
