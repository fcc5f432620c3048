"""Scrub of a volume and of S3: the order, the limits, and going on after an end in the middle of a blob."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.scrub import scrub, scrub_remote, scrub_with
from paddock.lifecycle.upkeep.verify import VolumeVerifier
from paddock.model.artifact import Manifest
from paddock.model.names import Sha256
from paddock.store.blob_check import OutOfTime, Pace
from paddock.store.volume.layout import ON_VOLUME
from paddock.store.volume.verifications import in_remote
from tests.support.damage import flip
from tests.support.stored_model import WEIGHTS, random_bytes, store_model, weights_of
from tests.support.stores import SEGMENT_BYTES
from tests.support.tiny_hub import use_hub, use_s3

FILES = ("a.bin", "b.bin", "c.bin")
SIZE = 4 * SEGMENT_BYTES


class EndsAfter(Pace):
    """A pace whose time is over after a number of bytes."""

    def __init__(self, end_bytes: int) -> None:
        super().__init__()
        self._end_bytes = end_bytes

    def check(self) -> None:
        super().check()
        if self.read_bytes >= self._end_bytes:
            raise OutOfTime


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path) -> tuple[Clients, Manifest]:
    """Three files of four segments."""
    use_hub(monkeypatch, hub, tmp_path)
    clients = connect()
    contents = {name: random_bytes(SIZE, seed=number) for number, name in enumerate(FILES)}
    return clients, store_model(clients, hub, tmp_path, contents=contents)


def digest_of(manifest: Manifest, path: str) -> Sha256:
    return next(file.sha256 for file in manifest.files if file.path == path)


def end_after(clients: Clients, read_bytes: int) -> int:
    """Scrub until so many bytes were read; returns the number of blobs that were read as a whole."""
    scrubbed = scrub_with(clients, VolumeVerifier(clients, repair_damage=False), EndsAfter(read_bytes))
    assert not scrubbed.complete
    return scrubbed.checked_blobs


def test_everything_is_read_and_recorded_and_read_again_by_the_next_scrub(stored: tuple[Clients, Manifest]) -> None:
    clients, manifest = stored
    for _ in range(2):
        scrubbed = scrub(clients)
        assert (scrubbed.complete, scrubbed.checked_blobs, scrubbed.checked_bytes) == (True, 3, 3 * SIZE)
        assert scrubbed.damaged == ()
    assert "3 of 3 blobs, 768.0 KiB read" in scrubbed.line
    record = clients.volume.verifications.last(digest_of(manifest, "a.bin"))
    assert record is not None
    assert datetime.now(UTC) - record.at < timedelta(seconds=60)
    assert clients.volume.verifications.progress() is None


def test_a_scrub_that_ends_in_a_blob_goes_on_with_its_next_segment(stored: tuple[Clients, Manifest]) -> None:
    clients, _ = stored
    assert end_after(clients, SIZE + 2 * SEGMENT_BYTES) == 1
    progress = clients.volume.verifications.progress()
    assert progress is not None
    assert progress.segment == 2
    rest = scrub(clients)
    assert (rest.complete, rest.checked_blobs, rest.checked_bytes) == (True, 2, SIZE + 2 * SEGMENT_BYTES)
    assert scrub(clients).checked_bytes == 3 * SIZE


def test_damage_that_was_read_before_the_end_is_found_by_the_next_scrub(stored: tuple[Clients, Manifest]) -> None:
    clients, manifest = stored
    flip(clients.volume.blob_path(digest_of(manifest, "a.bin")), 5)
    assert end_after(clients, 2 * SEGMENT_BYTES) == 0
    scrubbed = scrub(clients)
    (found,) = scrubbed.damaged
    assert (found.path, found.bad_segments, found.ok, found.repaired_bytes) == ("a.bin", (0,), True, SEGMENT_BYTES)
    assert "1 damaged, 0 of them still" in scrubbed.line


def test_a_blob_that_was_replaced_since_is_read_from_its_beginning(stored: tuple[Clients, Manifest]) -> None:
    clients, manifest = stored
    assert end_after(clients, 2 * SEGMENT_BYTES) == 0
    digest = digest_of(manifest, "a.bin")
    content = clients.volume.blob_path(digest).read_bytes()
    clients.volume.quarantine(digest)
    clients.volume.add_bytes(content)
    clients.volume.publish(manifest)
    flip(clients.volume.blob_path(digest), 5)
    assert [found.path for found in scrub(clients, repair=False).damaged] == ["a.bin"]


def test_the_blob_with_the_oldest_verification_is_read_first(stored: tuple[Clients, Manifest]) -> None:
    clients, manifest = stored
    directory = clients.volume.root / ".paddock" / "verified"
    for days, path in enumerate(("a.bin", "c.bin", "b.bin")):
        digest = digest_of(manifest, path)
        clients.volume.verifications.record(digest)
        at = (datetime.now(UTC) - timedelta(days=days + 1)).isoformat()
        (directory / digest[:2] / f"{digest}-{ON_VOLUME}.json").write_text(f'{{"at": "{at}", "tag": null}}')
    order = []
    for _ in range(3):
        end_after(clients, 1)
        progress = clients.volume.verifications.progress()
        assert progress is not None
        order.append(next(path for path in FILES if digest_of(manifest, path) == progress.sha256))
        clients.volume.verifications.record(Sha256(progress.sha256))
    assert order == ["b.bin", "c.bin", "a.bin"]


def test_with_no_time_nothing_is_read(stored: tuple[Clients, Manifest]) -> None:
    clients, _ = stored
    scrubbed = scrub(clients, max_seconds=0)
    assert (scrubbed.complete, scrubbed.checked_bytes) == (False, 0)
    assert "the rest is read by the next scrub" in scrubbed.line


def test_without_repair_damage_is_quarantined_and_said(stored: tuple[Clients, Manifest]) -> None:
    clients, manifest = stored
    flip(clients.volume.blob_path(digest_of(manifest, "b.bin")), 5)
    scrubbed = scrub(clients, repair=False)
    assert [(found.path, found.ok) for found in scrubbed.damaged] == [("b.bin", False)]
    assert not clients.volume.has_blob(digest_of(manifest, "b.bin"), SIZE)
    assert scrubbed.to_json()["damaged"][0]["bad_segments"] == [0]


def test_a_wrong_digest_in_a_manifest_damages_no_blob(stored: tuple[Clients, Manifest]) -> None:
    clients, manifest = stored
    path = clients.volume.snapshot_path(manifest.id) / "manifest.json"
    text = path.read_text()
    digest = next(file.segments[1] for file in manifest.files if file.path == "a.bin")
    path.chmod(0o644)
    path.write_text(text.replace(digest, digest[:-1] + ("0" if digest[-1] != "0" else "1")))
    assert scrub(clients).damaged == ()
    assert clients.volume.has_blob(digest_of(manifest, "a.bin"), SIZE)


def test_the_objects_of_s3_are_scrubbed_and_repaired_likewise(
    monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path
) -> None:
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"scrub-{secrets.token_hex(4)}")
    clients = connect()
    manifest = store_model(clients, hub, tmp_path, in_s3=True)
    assert clients.remote is not None
    where = in_remote(clients.remote.label)
    first = scrub_remote(clients, max_seconds=0)
    assert first is not None
    assert not first.complete
    assert clients.volume.verifications.progress(where) is not None
    assert clients.volume.verifications.progress() is None
    clients.remote.drop_blob(weights_of(manifest).sha256)
    scrubbed = scrub_remote(clients)
    assert scrubbed is not None
    assert [(found.path, found.ok) for found in scrubbed.damaged] == [(WEIGHTS, True)]
    assert scrubbed.complete


def test_without_s3_there_is_nothing_to_scrub_there(stored: tuple[Clients, Manifest]) -> None:
    assert scrub_remote(stored[0]) is None
    assert scrub_remote.line is not None
    assert scrub_remote.line(None) == "no remote store is set"


@pytest.mark.torture
def test_a_scrub_that_was_killed_reads_no_segment_twice_but_the_last_seconds(
    monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path
) -> None:
    use_hub(monkeypatch, hub, tmp_path)
    clients = connect()
    store_model(clients, hub, tmp_path, contents={"large.bin": random_bytes(64 * SEGMENT_BYTES)})
    code = (
        "from paddock.lifecycle.clients import connect; from paddock.lifecycle.upkeep.scrub import scrub;"
        f"scrub(connect(), limit_bytes_per_s={4 * SEGMENT_BYTES})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ.copy())
    deadline = time.monotonic() + 60
    while (progress := clients.volume.verifications.progress()) is None or progress.segment < 8:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert scrub(clients).checked_bytes <= (64 - 8) * SEGMENT_BYTES
