from __future__ import annotations

import os
from pathlib import Path

import pytest

import paddock
from paddock.errors import BadSetting, InUse, NotOnVolume, UnsafeName
from paddock.model.names import ModelName
from paddock.store.volume import Volume
from tests.support.stores import Q4, A, B, id_of, publish

HOSTILE = [
    "",
    "..",
    "../x",
    "/etc/passwd",
    "a/b/c",
    "org\\name",
    "C:/x",
    "a\x00b",
    "a\nb",
    "-x/y",
    ".x/y",
    "org/..",
    "org/na--me",
    "x" * 97,
    "org/",
    "/name",
    "org/ünï",
    "org/name ",
]


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "models"))
    made = Volume(tmp_path / "models")
    made.prepare()
    return made


def test_a_name_becomes_a_directory_below_the_volume(volume: Volume) -> None:
    assert paddock.get_model_path_from_name("org/name") == volume.root / "org--name"
    assert paddock.get_model_path_from_name("gpt2") == volume.root / "gpt2"
    assert paddock.get_model_path_from_name("org/name:Q4_K_M") == volume.root / "org--name--Q4_K_M"
    assert paddock.get_model_path_from_name("Org_1/N.a-me_2") == volume.root / "Org_1--N.a-me_2"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_everywhere_and_quoted(volume: Volume, name: str) -> None:
    for call in (
        paddock.get_model_path_from_name,
        paddock.list_model_files,
        paddock.delete_model_from_volume,
    ):
        with pytest.raises(ValueError, match="model name") as caught:
            call(name)
        assert isinstance(caught.value, UnsafeName)
        assert repr(name)[1:10] in str(caught.value)


def test_an_empty_or_absent_volume_lists_nothing(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paddock.list_model_files() == []
    assert paddock.list_model_files("org/name") == []
    monkeypatch.setenv("PADDOCK_VOLUME", str(volume.root / "absent"))
    assert paddock.list_model_files() == []
    assert not os.path.lexists(volume.root / "absent")


def test_every_file_of_every_snapshot_is_listed(volume: Volume) -> None:
    first = publish(volume, A, {"m.gguf": b"aa", "deep/config.json": b"{}"}, volume.root)
    publish(volume, B, {"m.gguf": b"bbb"}, volume.root, age_s=60)
    publish(volume, A, {"other.gguf": b"cccc"}, volume.root, model=ModelName.parse("another"))
    publish(volume, B, {"m4.gguf": b"four!"}, volume.root, variant=Q4, age_s=120)
    volume.promote(id_of(B, Q4), reason="beside", default=False)
    volume.promote(id_of(B), reason="new")
    volume.usage.touch(id_of(B))
    rows = paddock.list_model_files()
    keys = ("model", "revision", "variant", "path", "size", "promoted", "default")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("another", A, "Q8_0", "other.gguf", 4, False, False),
        ("org/name", A, "Q8_0", "deep/config.json", 2, False, False),
        ("org/name", A, "Q8_0", "m.gguf", 2, False, False),
        ("org/name", B, "Q8_0", "m.gguf", 3, True, True),
        ("org/name", B, "Q4_K_M", "m4.gguf", 5, True, False),
    ]
    assert rows[2]["sha256"] == first.files[1].sha256
    assert rows[2]["last_use"] is None
    assert str(rows[3]["last_use"]).endswith("+00:00")
    assert paddock.list_model_files("org/name") == rows[1:]
    assert paddock.list_model_files("org/name:q4_k_m") == rows[4:]
    assert paddock.list_model_files("org/name:Q6_K") == []
    assert set(rows[0]) == {*keys, "sha256", "last_use"}


def test_deleting_returns_the_freed_bytes(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a" * 100, "config.json": b"shared"}, volume.root)
    publish(volume, B, {"m.gguf": b"b" * 10, "config.json": b"shared"}, volume.root)
    publish(volume, A, {"m4.gguf": b"4" * 30, "config.json": b"shared"}, volume.root, variant=Q4)
    volume.promote(id_of(B), reason="new")
    assert paddock.delete_model_from_volume("org/name:q4_k_m", A) == 30
    assert paddock.delete_model_from_volume("org/name", A) == 100
    with volume.lease(id_of(B)), pytest.raises(InUse):
        paddock.delete_model_from_volume("org/name")
    assert paddock.delete_model_from_volume("org/name") == 16
    assert paddock.list_model_files() == []


def test_a_missing_model_is_named(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a"}, volume.root)
    with pytest.raises(NotOnVolume, match="org/other"):
        paddock.delete_model_from_volume("org/other")
    with pytest.raises(NotOnVolume, match=B):
        paddock.delete_model_from_volume("org/name", B)
    for revision in ("main", "../..", A[:39], A.upper()):
        with pytest.raises(UnsafeName):
            paddock.delete_model_from_volume("org/name", revision)
    assert len(paddock.list_model_files()) == 1


def test_a_volume_that_is_no_absolute_path_is_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_VOLUME", "relative")
    with pytest.raises(BadSetting, match="PADDOCK_VOLUME"):
        paddock.list_model_files()
