"""Flipped bits in stored blobs: each is found, costs at most its segment, and is never served once it was found."""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import CorruptFile
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.scrub import scrub
from paddock.model.artifact import Manifest
from paddock.model.names import Sha256
from tests.support.stored_model import quarantined, random_bytes, store_model
from tests.support.stores import SEGMENT_BYTES
from tests.support.tiny_hub import use_hub

FILES, SEGMENTS, FLIPS = 8, 5, 20
SIZE = SEGMENTS * SEGMENT_BYTES - 100


def flip_bit(path: Path, offset: int, bit: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
    path.chmod(0o444)


def flip_bits(clients: Clients, manifest: Manifest, generator: random.Random) -> dict[Sha256, set[int]]:
    """Flip bits at random places; returns the damaged segments of each blob."""
    damaged: dict[Sha256, set[int]] = {}
    places = generator.sample(range(FILES * SIZE), FLIPS)
    for place in places:
        file, offset = manifest.files[place // SIZE], place % SIZE
        flip_bit(clients.volume.blob_path(file.sha256), offset, generator.randrange(8))
        damaged.setdefault(file.sha256, set()).add(offset // SEGMENT_BYTES)
    return damaged


def wrong_bytes(clients: Clients, manifest: Manifest) -> int:
    """The number of wrong bytes in the files of a snapshot that can be served."""
    with clients.volume.lease(manifest.id) as snapshot:
        contents = [((snapshot / file.path).read_bytes(), file.sha256) for file in manifest.files]
    return sum(len(content) for content, digest in contents if sha256(content).hexdigest() != digest)


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.torture)])
def test_every_flipped_bit_is_found_and_costs_at_most_its_segment(
    monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path, rounds: int
) -> None:
    use_hub(monkeypatch, hub, tmp_path)
    clients = connect()
    contents = {f"part-{number}.bin": random_bytes(SIZE, seed=number) for number in range(FILES)}
    manifest = store_model(clients, hub, tmp_path, contents=contents)
    generator = random.Random(rounds)
    segments = transferred_bytes = served = 0
    for _ in range(rounds):
        damaged = flip_bits(clients, manifest, generator)
        found = scrub(clients, repair=False).damaged
        assert {one.sha256: set(one.bad_segments) for one in found} == damaged
        with pytest.raises(CorruptFile), clients.volume.lease(manifest.id):
            served += 1
        repaired = scrub(clients)
        assert (repaired.problems, {one.ok for one in repaired.damaged}) == ((), {True})
        segments += sum(map(len, damaged.values()))
        transferred_bytes += repaired.repaired_bytes
        assert wrong_bytes(clients, manifest) == 0
    assert served == 0
    assert transferred_bytes <= segments * SEGMENT_BYTES
    assert (quarantined(clients), list(clients.volume.partial.iterdir())) == ([], [])
    print(
        f"flipped bits: {rounds * FLIPS} injected and found in {segments} segments,"
        f" {transferred_bytes / SEGMENT_BYTES:.1f} segments transferred, 0 served once found, 0 wrong bytes"
    )
