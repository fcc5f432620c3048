"""The random name of a volume."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.store.volume import Volume


def test_a_volume_keeps_its_name(tmp_path: Path) -> None:
    assert Volume(tmp_path).identity.known() is None
    name = Volume(tmp_path).identity.name()
    assert len(name) == 16
    assert Volume(tmp_path).identity.known() == Volume(tmp_path).identity.name() == name


@pytest.mark.parametrize(
    "plant",
    [
        lambda path: path.write_text("../../evil"),
        lambda path: path.write_bytes(b"f" * 100),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
        os.mkfifo,
    ],
    ids=["other text", "too long", "a directory", "a link to a device", "a pipe"],
)
def test_what_is_no_name_is_replaced(plant: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / ".paddock").mkdir()
    plant(tmp_path / ".paddock" / "id")
    assert Volume(tmp_path).identity.known() is None
    assert len(Volume(tmp_path).identity.name()) == 16
