"""Repair of a published blob that rotted: the pull that an error advises fetches the damaged segment and no other.

The model is larger than what a pull reads through, so that damage behind the first segment is found only by what reads
all of it: the validation, and a copy to S3. `paddock verify` is tested in `test_verify.py`.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.s3 import S3Server
from paddock.errors import CorruptFile, TransientError
from paddock.lifecycle.acquire.pull import Pulled, pull
from paddock.lifecycle.assess import validate
from paddock.lifecycle.clients import Clients, connect
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.finding import Verdict
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.planning.targets import UNBOUNDED
from paddock.store.copying import push
from tests.support.damage import flip
from tests.support.gguf import tiny_llama
from tests.support.segmented_model import SEGMENT_BYTES, segmented_model
from tests.support.tiny_hub import MODEL, NAME, copy_directory, use_hub, use_s3

LARGER = ModelName.parse("org/larger-GGUF")
FILE = "larger-F32.gguf"
READ_THROUGH_BYTES = 16 * 2**20
"""A pull reads a stored blob of at most this size as a whole, and of a larger one the first segment."""
NOWHERE = "http://127.0.0.1:9"
CONTENT = segmented_model(layers=8)
LAST = len(CONTENT) // SEGMENT_BYTES
LAST_BYTES = len(CONTENT) % SEGMENT_BYTES


@pytest.fixture(scope="module")
def stored_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a Hub that has one larger model, and a volume to which it was pulled."""
    assert len(CONTENT) > READ_THROUGH_BYTES
    assert 0 < LAST_BYTES < SEGMENT_BYTES
    home = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch, serve_hub(LocalHub(home / "hub")) as hub:
        use_hub(patch, hub, home)
        patch.setenv("PADDOCK_SEGMENT_BYTES", str(SEGMENT_BYTES))
        hub.repository(str(LARGER)).commit({FILE: CONTENT, "config.json": b"{}"})
        pulled(connect(), str(LARGER))
    return home


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, stored_home: Path, tmp_path: Path) -> Clients:
    """A volume and an empty S3, beside a Hub with one larger model."""
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"repair-{secrets.token_hex(4)}")
    monkeypatch.setenv("PADDOCK_SEGMENT_BYTES", str(SEGMENT_BYTES))
    copy_directory(stored_home / "hub", tmp_path / "hub")
    return connect()


@pytest.fixture
def stored(fleet: Clients, stored_home: Path) -> Manifest:
    """The model, published and promoted on the volume alone."""
    copy_directory(stored_home / "models", fleet.volume.root)
    (manifest,) = fleet.volume.snapshots(LARGER)
    return manifest


def pulled(clients: Clients, text: str) -> Pulled:
    return pull(clients, Reference.parse(text), target=UNBOUNDED)


def weights(manifest: Manifest) -> SnapshotFile:
    (file,) = (file for file in manifest.files if file.path.endswith(".gguf"))
    return file


def damage(clients: Clients, manifest: Manifest, offset: int) -> None:
    """Flip a bit of the stored weights."""
    flip(clients.volume.blob_path(weights(manifest).sha256), offset)


def quarantine(clients: Clients) -> list[Path]:
    return list((clients.settings.volume / ".paddock" / "quarantine").glob("*"))


def found_by_validation(clients: Clients, manifest: Manifest) -> str:
    (finding,) = validate.check_integrity(clients, manifest)
    assert (finding.rule, finding.where) == ("integrity.sha256", FILE)
    return finding.cure


def found_by_a_copy(clients: Clients, manifest: Manifest) -> str:
    assert clients.remote is not None
    with pytest.raises(CorruptFile) as raised:
        push(clients.volume, clients.remote, manifest)
    assert clients.remote.snapshot(manifest.id) is None
    return raised.value.cure


def follow_cure(clients: Clients, cure: str) -> Pulled:
    """Do what a cure says, to the letter."""
    command = re.search(r"`paddock pull (\S+)`", cure)
    assert command is not None, cure
    return pulled(clients, command[1])


def assert_whole(clients: Clients, manifest: Manifest) -> None:
    """The snapshot is what was published, its file has the right bytes and is the blob, and nothing is quarantined."""
    file = weights(manifest)
    path = clients.volume.snapshot_path(manifest.id) / file.path
    assert clients.volume.snapshot(manifest.id) == manifest
    assert sha256(path.read_bytes()).hexdigest() == file.sha256
    assert path.samefile(clients.volume.blob_path(file.sha256))
    assert path.stat().st_mode & 0o777 == 0o444
    assert quarantine(clients) == []
    assert list(clients.volume.partial.iterdir()) == []
    assert validate.check_integrity(clients, manifest) == ()
    assert clients.volume.promoted(LARGER).default_id == manifest.id


@pytest.mark.parametrize(
    ("segment", "segment_bytes", "find"),
    [
        pytest.param(5, SEGMENT_BYTES, found_by_validation, id="in the middle, found by the validation"),
        pytest.param(LAST, LAST_BYTES, found_by_a_copy, id="the last, found by a copy to S3"),
        pytest.param(
            5, SEGMENT_BYTES, found_by_a_copy, id="in the middle, found by a copy to S3", marks=pytest.mark.torture
        ),
        pytest.param(
            LAST, LAST_BYTES, found_by_validation, id="the last, found by the validation", marks=pytest.mark.torture
        ),
    ],
)
def test_one_flipped_byte_costs_one_segment_by_the_pull_that_the_error_advises(
    fleet: Clients,
    stored: Manifest,
    hub: HubService,
    find: Callable[[Clients, Manifest], str],
    segment: int,
    segment_bytes: int,
) -> None:
    damage(fleet, stored, segment * SEGMENT_BYTES + 17)
    cure = find(fleet, stored)
    assert f"`paddock pull {stored.id}`" in cure
    assert len(quarantine(fleet)) == 1
    assert not fleet.volume.has_blob(weights(stored).sha256, len(CONTENT))
    hub.reset_stats()
    repaired = follow_cure(fleet, cure)
    assert repaired.transferred_bytes == segment_bytes
    assert hub.stats().bytes_sent[f"{LARGER}/{FILE}"] <= segment_bytes + SEGMENT_BYTES, "the header is read besides"
    assert repaired.manifest == stored
    assert_whole(fleet, stored)


def test_damage_in_two_segments_costs_two_segments(fleet: Clients, stored: Manifest) -> None:
    for offset in (3 * SEGMENT_BYTES, 3 * SEGMENT_BYTES + 1, 9 * SEGMENT_BYTES - 1):
        damage(fleet, stored, offset)
    assert follow_cure(fleet, found_by_validation(fleet, stored)).transferred_bytes == 2 * SEGMENT_BYTES
    assert_whole(fleet, stored)


def test_a_pull_repairs_a_stored_file_that_was_changed_behind_its_first_segment(
    fleet: Clients, stored: Manifest
) -> None:
    assert pulled(fleet, str(LARGER)).transferred_bytes == 0
    damage(fleet, stored, 5 * SEGMENT_BYTES)
    assert pulled(fleet, str(LARGER)).transferred_bytes == SEGMENT_BYTES
    assert_whole(fleet, stored)


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(5 * SEGMENT_BYTES + 17, id="behind the header"),
        pytest.param(40, id="in the header", marks=pytest.mark.torture),
    ],
)
def test_with_the_hub_down_the_segment_is_fetched_from_s3(
    monkeypatch: pytest.MonkeyPatch, fleet: Clients, stored: Manifest, hub: HubService, offset: int
) -> None:
    assert fleet.remote is not None
    push(fleet.volume, fleet.remote, stored)
    damage(fleet, stored, offset)
    cure = found_by_validation(fleet, stored)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    hub.reset_stats()
    alone = connect()
    repaired = follow_cure(alone, cure)
    assert repaired.transferred_bytes == SEGMENT_BYTES
    assert {one.file.path: one.origin for one in repaired.acquired}[FILE] == "s3"
    assert hub.stats().total_requests == 0
    assert_whole(alone, stored)


def test_with_the_hub_down_and_no_other_copy_the_damaged_bytes_are_kept_for_the_next_try(
    monkeypatch: pytest.MonkeyPatch, fleet: Clients, stored: Manifest
) -> None:
    damage(fleet, stored, 5 * SEGMENT_BYTES)
    cure = found_by_validation(fleet, stored)
    with monkeypatch.context() as down:
        down.setenv("HF_ENDPOINT", NOWHERE)
        with pytest.raises(TransientError, match=r"127\.0\.0\.1:9 did not answer"):
            follow_cure(connect(), cure)
    assert len(quarantine(fleet)) == 1
    assert follow_cure(fleet, cure).transferred_bytes == SEGMENT_BYTES
    assert_whole(fleet, stored)


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(0, id="in the magic", marks=pytest.mark.torture),
        pytest.param(40, id="in the metadata"),
        pytest.param(SEGMENT_BYTES - 1, id="in the first weights", marks=pytest.mark.torture),
    ],
)
def test_damage_in_the_first_segment_is_found_and_repaired_by_any_pull(
    fleet: Clients, stored: Manifest, caplog: pytest.LogCaptureFixture, offset: int
) -> None:
    damage(fleet, stored, offset)
    with caplog.at_level(logging.WARNING, logger="paddock"):
        repaired = pulled(fleet, str(LARGER))
    assert "it is quarantined, and fetched again" in caplog.text
    assert repaired.transferred_bytes == SEGMENT_BYTES
    assert repaired.manifest == stored
    assert_whole(fleet, stored)


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(0, id="in the magic"),
        pytest.param(SEGMENT_BYTES - 1, id="in the first weights", marks=pytest.mark.torture),
    ],
)
def test_damage_in_the_first_segment_is_repaired_from_s3_where_the_hub_is_down(
    monkeypatch: pytest.MonkeyPatch, fleet: Clients, stored: Manifest, offset: int
) -> None:
    assert fleet.remote is not None
    push(fleet.volume, fleet.remote, stored)
    damage(fleet, stored, offset)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    alone = connect()
    assert pulled(alone, f"{LARGER}@{stored.revision}").transferred_bytes == SEGMENT_BYTES
    assert_whole(alone, stored)


def model_with_zero_weights() -> bytes:
    """A model one of whose weights is all zeros, which warns."""
    file = tiny_llama()
    tensor = file.tensor("blk.0.ffn_up.weight")
    tensor.data = bytes(len(tensor.content()))
    return file.to_bytes()


def rules(manifest: Manifest) -> list[str]:
    return [one.rule for one in manifest.findings]


def test_a_warning_about_weights_is_repeated_by_later_pulls_of_the_same_bytes(
    clients: Clients, hub: HubService
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": model_with_zero_weights()})
    first = pull(clients, Reference(MODEL)).manifest
    assert (first.verdict, rules(first)) == (Verdict.WARN, ["gguf.weights.zero"])
    again = pull(clients, Reference(MODEL))
    assert again.manifest == first
    assert again.transferred_bytes == 0
    hub.repository(NAME).commit({"README.md": b"---\nlicense: mit\n---\nOnly the card changed\n"})
    later = pull(clients, Reference(MODEL))
    assert {one.file.path: one.origin for one in later.acquired}["tiny-Q8_0.gguf"] == "volume"
    assert later.manifest.revision != first.revision
    assert (later.manifest.verdict, rules(later.manifest)) == (Verdict.WARN, ["gguf.weights.zero"])


def test_a_warning_about_weights_is_repeated_for_another_snapshot_of_the_same_bytes(
    clients: Clients, hub: HubService
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": model_with_zero_weights()})
    pull(clients, Reference(MODEL))
    hub.repository("org/copy-GGUF").commit({"copy-Q8_0.gguf": model_with_zero_weights()})
    copy = pull(clients, Reference.parse("org/copy-GGUF"))
    assert {one.origin for one in copy.acquired} == {"volume"}
    assert copy.manifest.verdict is Verdict.WARN
    assert "gguf.weights.zero" in rules(copy.manifest)
