"""Records of verifications: when a blob was last compared with its digest, and where."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.model.names import parse_sha256
from paddock.store.volume import Volume
from paddock.store.volume.verifications import in_remote

FIRST, SECOND = parse_sha256("ab" * 32), parse_sha256("ab" * 31 + "cd")
REMOTE = in_remote("s3://bucket/prefix")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def test_each_blob_and_each_store_has_its_own_record(volume: Volume) -> None:
    assert volume.verifications.last(FIRST) is None
    volume.verifications.record(FIRST)
    volume.verifications.record(FIRST, REMOTE, tag='"1"')
    on_volume, remote = volume.verifications.last(FIRST), volume.verifications.last(FIRST, REMOTE)
    assert on_volume is not None
    assert remote is not None
    assert (on_volume.tag, remote.tag) == (None, '"1"')
    assert datetime.now(UTC) - on_volume.at < timedelta(seconds=30)
    assert volume.verifications.last(SECOND) is None
    assert volume.verifications.last(FIRST, in_remote("s3://other")) is None


def test_forgetting_removes_one_record_or_all_of_a_blob(volume: Volume) -> None:
    for blob in (FIRST, SECOND):
        volume.verifications.record(blob)
        volume.verifications.record(blob, REMOTE, tag="1")
    volume.verifications.forget(FIRST, REMOTE)
    assert volume.verifications.last(FIRST) is not None
    assert volume.verifications.last(FIRST, REMOTE) is None
    volume.verifications.forget(FIRST)
    assert volume.verifications.last(FIRST) is None
    assert volume.verifications.last(SECOND) is not None
    assert volume.verifications.last(SECOND, REMOTE) is not None


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"at": 3, "tag": null}', '{"at": "2026-05-01", "tag": null}', '{"at": "x", "tag": 1}']
)
def test_a_record_that_cannot_be_read_is_none(volume: Volume, content: str) -> None:
    volume.verifications.record(FIRST)
    (record,) = (volume.root / ".paddock" / "verified" / "ab").iterdir()
    record.write_text(content)
    assert volume.verifications.last(FIRST) is None
