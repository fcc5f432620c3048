"""Reading stored snapshots again: what rotted is found, put aside, and repaired from S3 or the Hub."""

from __future__ import annotations

import pytest

from infra.local.hub import Service
from paddock.lifecycle.parts import Parts, connect
from paddock.lifecycle.pull import pull
from paddock.lifecycle.verifying import verify
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.planning.targets import UNBOUNDED
from tests.support.damage import flip
from tests.support.house import NAME, tiny

SEGMENT_BYTES = 64 * 1024


@pytest.fixture
def stored(parts: Parts, hub: Service) -> Manifest:
    """A snapshot whose model has several segments, promoted."""
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny(12)})
    manifest = pull(parts, Reference.parse(f"{NAME}:Q8_0"), target=UNBOUNDED).manifest
    assert len(model_of(manifest)[1]) > 2
    return manifest


def model_of(manifest: Manifest) -> tuple[str, tuple[str, ...]]:
    """The path of the model's file, and the digests of its segments."""
    (file,) = (one for one in manifest.files if one.path.endswith(".gguf"))
    return file.path, file.segments


def test_what_is_whole_is_said_to_be_whole(parts: Parts, stored: Manifest) -> None:
    verified = verify(parts, [stored])
    assert verified.ok
    assert [one.path for one in verified.files] == [file.path for file in stored.files]
    assert verified.to_json()["bytes_transferred"] == 0


def test_one_flipped_byte_is_named_by_its_segment_and_that_segment_alone_is_fetched(
    parts: Parts, stored: Manifest
) -> None:
    name, _ = model_of(stored)
    flip(parts.volume.snapshot_path(stored.id) / name, SEGMENT_BYTES + 17)
    (damaged,) = (one for one in verify(parts, [stored]).files if not one.ok)
    assert (damaged.path, damaged.bad_segments) == (name, (1,))
    repaired = verify(parts, [stored], mend=True)
    assert repaired.ok
    assert repaired.transferred_bytes == SEGMENT_BYTES
    assert verify(parts, parts.volume.snapshots()).ok
    assert not list((parts.volume.root / ".paddock" / "quarantine").iterdir())


def test_damage_that_cannot_be_repaired_now_stays_reported(
    parts: Parts, stored: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = model_of(stored)
    flip(parts.volume.snapshot_path(stored.id) / name, 2 * SEGMENT_BYTES + 1)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    verified = verify(connect(), [stored], mend=True)
    assert not verified.ok
    assert verified.problems
    monkeypatch.undo()


def test_a_damaged_file_that_several_snapshots_share_is_repaired_for_all(parts: Parts, stored: Manifest) -> None:
    other = pull(parts, Reference.parse(f"{NAME}:Q4_K_M"), target=UNBOUNDED).manifest
    flip(parts.volume.snapshot_path(stored.id) / "config.json", 3)
    found = verify(parts, [stored, other])
    assert {one.id for one in found.files if not one.ok} == {stored.id, other.id}
    assert verify(parts, [stored, other], mend=True).ok
    for manifest in (stored, other):
        assert verify(parts, [manifest]).ok
        (config,) = (file for file in manifest.files if file.path == "config.json")
        blob = parts.volume.blob_path(config.sha256)
        assert (parts.volume.snapshot_path(manifest.id) / "config.json").samefile(blob)
