"""`paddock gc` for people and scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddock.store.volume import Volume
from tests.support.aged import age
from tests.support.program import Paddock, paddock
from tests.support.stores import A, B, C, id_of, publish

__all__ = ["paddock"]


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Volume:
    """Three snapshots of 1,000 bytes each; the last one is promoted, and the others could go."""
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path))
    monkeypatch.delenv("PADDOCK_S3_URI", raising=False)
    volume = Volume(tmp_path)
    volume.prepare()
    for number, revision in enumerate((A, B, C)):
        publish(volume, revision, {"m.gguf": bytes([number]) * 1000}, tmp_path, age_s=number)
    volume.promote(id_of(C), reason="a test")
    age(volume)
    return volume


def test_gc_prints_what_it_removes_with_reasons(volume: Volume, paddock: Paddock) -> None:
    printed = [paddock("gc", "--keep-bytes", "2000", "--dry-run", "--json").json for _ in range(2)]
    assert printed[0] == printed[1]
    assert printed[0]["removed"] == [
        {
            "model": "org/name",
            "revision": A,
            "variant": "Q8_0",
            "bytes": 1000,
            "reason": "the budget; no verified copy in S3; never used, published 2026-01-01",
        }
    ]
    assert volume.ids(id_of(A).model) == [id_of(A), id_of(B), id_of(C)]
    for_people = paddock("gc", "--keep-bytes", "2000", "--dry-run")
    assert (for_people.status, for_people.stderr) == (0, "")
    assert [line.split()[:2] for line in for_people.stdout.splitlines()[1:4]] == [
        ["would", "go"],
        ["kept", "org/name:Q8_0@bbbbbbbb"],
        ["kept", "org/name:Q8_0@cccccccc"],
    ]
    done = paddock("gc", "--keep-bytes", "2000", "--json")
    assert done.json == {**printed[0], "dry_run": False}
    assert volume.ids(id_of(A).model) == [id_of(B), id_of(C)]


def test_a_budget_that_cannot_be_kept_is_no_failure_and_is_said(volume: Volume, paddock: Paddock) -> None:
    done = paddock("gc", "--keep-bytes", "0")
    assert done.status == 0
    assert done.stdout.splitlines()[-1].endswith(
        "2 snapshots removed, 2.0 KiB freed; 1000 B of a budget of 0 B are used;"
        " 1000 B over the budget, since nothing else may be removed"
    )
    assert "the model's default" in done.stdout
    assert volume.blob_bytes() == 1000


@pytest.mark.parametrize("text", ["101%", "many", ""], ids=["more than all", "no size", "empty"])
def test_a_budget_that_does_not_parse_is_wrong_usage(volume: Volume, paddock: Paddock, text: str) -> None:
    done = paddock("gc", "--keep-bytes", text, "--json")
    assert (done.status, done.json["error"]) == (3, "bad-setting")
    assert len(volume.snapshots()) == 3


def test_gc_on_a_mistyped_volume_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, paddock: Paddock) -> None:
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "missing"))
    done = paddock("gc", "--json")
    assert (done.status, done.json["error"]) == (1, "not-on-volume")
