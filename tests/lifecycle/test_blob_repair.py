"""`paddock verify --repair`: damage of each kind is named, and only what is damaged is transferred again."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE
from paddock.errors import CorruptFile
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.planning.targets import UNBOUNDED
from tests.support.damage import flip
from tests.support.program import Paddock, paddock, program
from tests.support.stored_model import WEIGHTS, quarantined, store_model, weights_of
from tests.support.stores import MODEL, SEGMENT_BYTES
from tests.support.tiny_hub import NAME, tiny_model, use_hub, use_s3

__all__ = ["paddock"]

NOWHERE = "http://127.0.0.1:9"
THIRD = 2 * SEGMENT_BYTES + 17


@dataclass(frozen=True)
class Fleet:
    """A model of five segments on the Hub, on a volume and, where it was made so, in S3."""

    clients: Clients
    manifest: Manifest

    @property
    def blob(self) -> Path:
        return self.clients.volume.blob_path(weights_of(self.manifest).sha256)

    @property
    def file(self) -> Path:
        return self.clients.volume.snapshot_path(self.manifest.id) / WEIGHTS

    def assert_whole(self, paddock: Paddock) -> None:
        assert paddock("verify", "--json").status == 0
        assert self.file.samefile(self.blob)
        assert self.blob.stat().st_mode & 0o777 == 0o444
        assert list(self.clients.volume.partial.iterdir()) == []
        with self.clients.volume.lease(self.manifest.id):
            pass


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path) -> Fleet:
    use_hub(monkeypatch, hub, tmp_path)
    clients = connect()
    return Fleet(clients, store_model(clients, hub, tmp_path))


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path) -> Fleet:
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"verify-{secrets.token_hex(4)}")
    clients = connect()
    return Fleet(clients, store_model(clients, hub, tmp_path, in_s3=True))


def test_one_flipped_byte_is_named_by_file_and_segment_and_costs_one_segment(alone: Fleet, hub: HubService) -> None:
    flip(alone.blob, THIRD)
    found = program("verify")
    assert found.status == 2
    assert WEIGHTS in found.stdout
    words = " ".join(found.stdout.split())
    assert "segment 3 of 5" in words
    assert f"`paddock verify {alone.manifest.id} --repair`" in found.stdout
    hub.reset_stats()
    repaired = program("verify", "--repair", "--json")
    assert repaired.status == 0, repaired.stderr
    assert repaired.json["bytes_transferred"] == SEGMENT_BYTES
    (file,) = [one for one in repaired.json["files"] if one["damage"]]
    assert (file["path"], file["bad_segments"], file["repaired_bytes"]) == (WEIGHTS, [2], SEGMENT_BYTES)
    assert sum(hub.stats().bytes_sent.values()) == SEGMENT_BYTES


@pytest.mark.parametrize("down", ["the Hub is down", "the Hub is offline", "S3 is down"])
def test_a_repair_takes_the_segment_from_the_source_that_is_there(
    monkeypatch: pytest.MonkeyPatch, fleet: Fleet, hub: HubService, paddock: Paddock, down: str
) -> None:
    flip(fleet.blob, THIRD)
    if down == "S3 is down":
        monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    elif down == "the Hub is down":
        monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.reset_stats()
    repaired = paddock("verify", "--repair", "--json")
    assert repaired.status == 0, repaired.stderr
    (file,) = [one for one in repaired.json["files"] if one["damage"]]
    assert (file["path"], file["bad_segments"]) == (WEIGHTS, [2])
    assert repaired.json["bytes_transferred"] == SEGMENT_BYTES
    assert (hub.stats().total_requests == 0) is (down != "S3 is down")
    fleet.assert_whole(paddock)
    assert quarantined(fleet.clients) == []


def test_a_revision_that_the_hub_has_forgotten_is_repaired_from_s3(
    fleet: Fleet, hub: HubService, paddock: Paddock
) -> None:
    hub.rename(str(MODEL), "org/elsewhere")
    flip(fleet.blob, THIRD)
    assert paddock("verify", "--repair", "--json").json["bytes_transferred"] == SEGMENT_BYTES
    fleet.assert_whole(paddock)


def truncate(fleet: Fleet) -> None:
    fleet.blob.chmod(0o644)
    with fleet.blob.open("r+b") as file:
        file.truncate(3 * SEGMENT_BYTES + 5)


def grow(fleet: Fleet) -> None:
    fleet.blob.chmod(0o644)
    with fleet.blob.open("ab") as file:
        file.write(b"more")


def empty(fleet: Fleet) -> None:
    fleet.blob.chmod(0o644)
    fleet.blob.write_bytes(b"")


def flip_two(fleet: Fleet) -> None:
    for offset in (5, 6, THIRD):
        flip(fleet.blob, offset)


def delete_blob(fleet: Fleet) -> None:
    fleet.blob.unlink()


def delete_blob_of_damaged_file(fleet: Fleet) -> None:
    flip(fleet.blob, THIRD)
    fleet.blob.unlink()


def delete_both(fleet: Fleet) -> None:
    fleet.blob.unlink()
    fleet.file.unlink()


def make_directory(fleet: Fleet) -> None:
    fleet.blob.unlink()
    fleet.blob.mkdir()


def make_link(fleet: Fleet) -> None:
    target = fleet.blob.with_name("elsewhere")
    fleet.blob.rename(target)
    fleet.blob.symlink_to(target)


def replace_file(fleet: Fleet) -> None:
    content = fleet.file.read_bytes()
    fleet.file.unlink()
    fleet.file.write_bytes(content)


def replace_file_by_damaged(fleet: Fleet) -> None:
    replace_file(fleet)
    flip(fleet.file, 3)


def replace_file_by_directory(fleet: Fleet) -> None:
    fleet.file.unlink()
    fleet.file.mkdir()


def delete_file(fleet: Fleet) -> None:
    fleet.file.unlink()


LAST_TWO = SEGMENT_BYTES + SEGMENT_BYTES // 3
WHOLE = 4 * SEGMENT_BYTES + SEGMENT_BYTES // 3


@pytest.mark.parametrize(
    ("damage", "words", "transferred"),
    [
        pytest.param(flip_two, "segment 1 of 5", 2 * SEGMENT_BYTES, id="bits in two segments"),
        pytest.param(truncate, "segment 4 of 5", LAST_TWO, id="cut short"),
        pytest.param(grow, "and 283989 were stored", 0, id="grown"),
        pytest.param(empty, "has 0 bytes, and 283989 were stored, is damaged in segment 1 of 5", WHOLE, id="emptied"),
        pytest.param(delete_blob_of_damaged_file, "segment 3 of 5", SEGMENT_BYTES, id="damaged, and blob deleted"),
        pytest.param(delete_both, "is missing", WHOLE, id="blob and file deleted"),
        pytest.param(make_directory, "has lost its blob", 0, id="blob is a directory"),
        pytest.param(make_link, "has lost its blob", 0, id="blob is a link"),
        pytest.param(delete_file, "is missing", 0, id="file deleted"),
        pytest.param(replace_file_by_damaged, "segment 1 of 5", 0, id="file replaced by others"),
        pytest.param(replace_file_by_directory, "is a directory", 0, id="file is a directory"),
    ],
)
def test_each_kind_of_damage_is_named_and_repaired(
    alone: Fleet, paddock: Paddock, damage: Callable[[Fleet], None], words: str, transferred: int
) -> None:
    damage(alone)
    found = paddock("verify", str(alone.manifest.id), "--json")
    assert found.status == 2
    (file,) = [one for one in found.json["files"] if not one["ok"]]
    assert words in file["damage"]
    with pytest.raises(CorruptFile) as refused, alone.clients.volume.lease(alone.manifest.id):
        pass
    assert refused.value.cure == f"repair it with `paddock verify {alone.manifest.id} --repair`"
    repaired = paddock("verify", str(alone.manifest.id), "--repair", "--json")
    assert (repaired.status, repaired.json["problems"]) == (0, [])
    assert repaired.json["bytes_transferred"] == transferred
    alone.assert_whole(paddock)
    assert paddock("verify", "--repair", "--json").json["bytes_transferred"] == 0


def test_a_deleted_blob_is_told_and_linked_again_and_its_snapshot_is_served_meanwhile(
    alone: Fleet, paddock: Paddock
) -> None:
    delete_blob(alone)
    found = paddock("verify", "--json")
    assert found.status == 2
    assert [file["damage"] for file in found.json["files"] if not file["ok"]] == ["is sound, and has lost its blob"]
    with alone.clients.volume.lease(alone.manifest.id):  # the snapshot's own link has the bytes
        pass
    repaired = paddock("verify", "--repair", "--json")
    assert (repaired.status, repaired.json["bytes_transferred"]) == (0, 0)
    alone.assert_whole(paddock)


def test_a_volume_that_was_copied_without_its_hard_links_is_sound_and_a_repair_links_it(
    alone: Fleet, paddock: Paddock
) -> None:
    replace_file(alone)
    assert paddock("verify").status == 0
    with alone.clients.volume.lease(alone.manifest.id):
        pass
    repaired = paddock("verify", "--repair", "--json")
    assert (repaired.status, repaired.json["bytes_transferred"]) == (0, 0)
    alone.assert_whole(paddock)


def test_what_is_damaged_is_neither_served_benchmarked_nor_promoted_until_the_cure_was_done(
    alone: Fleet, paddock: Paddock
) -> None:
    flip(alone.blob, THIRD)
    assert paddock("verify").status == 2
    cure = f"paddock verify {alone.manifest.id} --repair"
    for command in ("promote", "bench", "serve"):
        refused = paddock(command, str(alone.manifest.id), "--json")
        assert (refused.status, refused.json["error"]) == (2, "corrupt-file")
        assert f"`{cure}`" in refused.json["cure"]
    assert paddock(*cure.split()[1:]).status == 0
    assert paddock("promote", str(alone.manifest.id), "--json").status == 0


def test_damage_that_no_source_can_repair_is_said_and_its_sound_segments_are_kept(
    monkeypatch: pytest.MonkeyPatch, alone: Fleet, paddock: Paddock
) -> None:
    flip(alone.blob, THIRD)
    with monkeypatch.context() as offline:
        offline.setenv("HF_HUB_OFFLINE", "1")
        failed = paddock("verify", "--repair", "--json")
    assert failed.status == 2
    (problem,) = failed.json["problems"]
    assert "HF_HUB_OFFLINE" in problem
    assert len(quarantined(alone.clients)) == 1
    assert paddock("verify", "--repair", "--json").json["bytes_transferred"] == SEGMENT_BYTES
    alone.assert_whole(paddock)


def test_derived_files_are_derived_again_and_a_manifest_is_restored_from_s3(
    monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path, paddock: Paddock
) -> None:
    use_hub(monkeypatch, hub, tmp_path)
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model()})
    manifest = pull(connect(), Reference.parse(NAME), target=UNBOUNDED).manifest
    volume = connect().volume
    for path in (TEMPLATE_FILE, CHAT_FILE):
        flip(volume.snapshot_path(manifest.id) / path, 7)
    assert paddock("verify").status == 2
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repaired = paddock("verify", "--repair", "--json")
    assert (repaired.status, repaired.json["bytes_transferred"]) == (0, 0), repaired.stdout
    use_s3(monkeypatch, s3, f"verify-{secrets.token_hex(4)}")
    assert paddock("cache", NAME).status == 0
    stored = volume.snapshot_path(manifest.id) / "manifest.json"
    flip(stored, 0)
    assert paddock("verify", "--json").status == 2
    assert paddock("verify", "--repair", "--json").status == 0
    assert volume.snapshot(manifest.id) == manifest
