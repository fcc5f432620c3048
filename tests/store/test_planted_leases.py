"""A lease on the volume protects a snapshot while its holder lives, and no longer, whatever is written into it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from paddock.store.volume import Volume
from paddock.store.volume.serve_leases import UNLOCKED_S
from tests.support.stores import MODEL, A, id_of

ID = id_of(A)


def content(**values: object) -> bytes:
    usual = {"revision": A, "variant": "Q8_0", "pid": 1, "host": "h", "since": "2026-05-01T09:00:00+00:00"}
    return json.dumps({**usual, **values}).encode()


CONTENTS: dict[str, bytes] = {
    "as it should be": content(),
    "of the year 9999": content(since="9999-12-31T23:59:59+00:00", until="9999-12-31T23:59:59+00:00"),
    "that lasts without an end": content(lease_s=1e999, pid=10**30),
    "with a negative duration": content(lease_s=-1),
    "of another model": content(revision="b" * 40, model="other/model"),
    "with megabytes of text": content(host="x" * 2**21),
    "nested": b"[" * 5000,
    "a list": b"[]",
    "empty": b"",
    "not UTF-8": b"\xff\xfe",
}


@pytest.fixture(params=list(CONTENTS.values()), ids=list(CONTENTS))
def planted(request: pytest.FixtureRequest, volume: Volume) -> Path:
    directory: Path = volume.root / ".paddock" / "leases" / MODEL.slug
    directory.mkdir(parents=True)
    path = directory / "aaaa"
    path.write_bytes(request.param)
    return path


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no flock here")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_lease_that_nobody_holds_is_removed(volume: Volume, planted: Path) -> None:
    assert volume.holders(ID) == []
    assert not planted.exists()


@pytest.mark.usefixtures("without_flock")
@pytest.mark.parametrize("age_s", [UNLOCKED_S + 60, -UNLOCKED_S - 60], ids=["old", "of the future"])
def test_without_locks_a_lease_holds_for_a_time(volume: Volume, planted: Path, age_s: float) -> None:
    os.utime(planted, (time.time() - age_s,) * 2)
    assert volume.holders(ID) == []
