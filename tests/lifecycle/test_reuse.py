"""A new revision of a model is fetched with the tensors that the volume has already."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.lifecycle.acquire.pull import Pulled, pull
from paddock.lifecycle.clients import Clients, connect
from paddock.model.names import Sha256
from paddock.model.reference import Reference
from paddock.model.source import Expected
from paddock.transfer.digest import SegmentHash
from paddock.transfer.journal import Piece
from paddock.transfer.staging import create_seed
from tests.support.damage import flip
from tests.support.gguf import STRING, Gguf, TensorRow, tiny_llama
from tests.support.tiny_hub import CONFIG, MODEL, NAME, use_hub

PATH = "tiny-Q8_0.gguf"
HEAD_BYTES = 1024 * 1024
"""What is read of a header at first, however short it is."""
SAMPLES_BYTES = 64 * 1024
"""The samples of 14 tensors, and the tensors that are too small for one."""


@cache
def _written() -> Gguf:
    file = tiny_llama(layers=2, width=256, inner=512, heads=2)
    for row in file.tensors:
        row.data = row.content()
    return file


def model() -> Gguf:
    """A model of 1.3 MB in 20 tensors, of which 14 have more than 16 KiB."""
    return deepcopy(_written())


@pytest.fixture(scope="module")
def first() -> bytes:
    return model().to_bytes()


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path, first: bytes) -> Clients:
    """A volume with the first revision."""
    use_hub(monkeypatch, hub, tmp_path)
    hub.repository(NAME).commit({PATH: first})
    clients = connect()
    pull(clients, Reference(MODEL))
    return clients


def pull_next(clients: Clients, hub: HubService, content: bytes) -> tuple[Pulled, int]:
    """Pull a new revision. Returns the result, and the bytes that the Hub sent of its GGUF."""
    hub.repository(NAME).commit({PATH: content})
    hub.reset_stats()
    pulled = pull(clients, Reference(MODEL))
    (file,) = (file for file in pulled.manifest.files if file.path == PATH)
    assert file.sha256 == sha256(content).hexdigest()
    assert (clients.volume.snapshot_path(pulled.manifest.id) / PATH).read_bytes() == content
    return pulled, sum(hub.stats().bytes_sent.values())


def other_template(file: Gguf) -> None:
    file.set("tokenizer.chat_template", STRING, "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")


def other_order(file: Gguf) -> None:
    file.tensors.reverse()


def other_data(file: Gguf, *names: str) -> int:
    """Give tensors other data. Returns its size in bytes."""
    rows = [row for row in file.tensors if row.name in names]
    for row in rows:
        row.data = TensorRow("other", row.shape, row.kind).content()
    return sum(len(row.content()) for row in rows)


@pytest.mark.parametrize("change", [other_template, other_order])
def test_a_revision_with_the_same_tensors_costs_its_header_and_samples(
    clients: Clients, hub: HubService, change: Callable[[Gguf], None]
) -> None:
    file = model()
    change(file)
    pulled, sent = pull_next(clients, hub, file.to_bytes())
    assert sent <= HEAD_BYTES + SAMPLES_BYTES
    assert pulled.transferred_bytes <= SAMPLES_BYTES  # the header came before, with the preflight


def test_a_revision_that_changes_only_the_card_costs_no_byte(clients: Clients, hub: HubService, first: bytes) -> None:
    def commit(card: bytes) -> None:
        hub.repository(NAME).commit({PATH: first, "config.json": CONFIG, "README.md": card})

    commit(b"# One")
    pull(clients, Reference(MODEL))
    commit(b"# Two")
    hub.reset_stats()
    pulled = pull(clients, Reference(MODEL))
    assert pulled.published.transferred_bytes == sum(hub.stats().bytes_sent.values()) == 0
    assert hub.stats().total_requests == 1
    assert {file.path for file in pulled.manifest.files} >= {PATH, "config.json"}


def test_a_revision_with_two_other_tensors_costs_these_too(clients: Clients, hub: HubService) -> None:
    file = model()
    changed = other_data(file, "blk.1.ffn_up.weight", "blk.0.attn_q.weight")
    _, sent = pull_next(clients, hub, file.to_bytes())
    assert changed <= sent - HEAD_BYTES <= changed + SAMPLES_BYTES


def test_a_change_that_no_sample_shows_is_fetched_by_its_segment(clients: Clients, hub: HubService) -> None:
    file = model()
    (row,) = (row for row in file.tensors if row.name == "blk.1.ffn_gate.weight")
    row.data = row.content()[:-8] + bytes(8)
    pull_next(clients, hub, file.to_bytes())


def test_a_damaged_file_of_the_volume_does_no_harm(clients: Clients, hub: HubService, first: bytes) -> None:
    (stored,) = clients.volume.snapshots(MODEL)
    flip(clients.volume.blob_path(next(file.sha256 for file in stored.files if file.path == PATH)), len(first) // 2)
    file = model()
    other_template(file)
    pull_next(clients, hub, file.to_bytes())


def test_a_file_with_other_tensors_is_fetched_after_a_few_samples(clients: Clients, hub: HubService) -> None:
    file = model()
    other_data(file, *(str(row.name) for row in file.tensors if len(row.shape) > 1))
    content = file.to_bytes()
    pulled, _ = pull_next(clients, hub, content)
    assert 0 < pulled.transferred_bytes - len(content) <= 16 * 1024


def test_a_seed_that_was_not_completed_is_made_anew(clients: Clients, hub: HubService) -> None:
    """As SIGKILL leaves it while the tensors are copied."""
    file = model()
    other_template(file)
    content = file.to_bytes()
    expected = Expected(len(content), Sha256(sha256(content).hexdigest()))
    left = create_seed(clients.volume.partial, expected, segment_bytes=clients.settings.segment_bytes, quiet_s=60)
    left.data.write_bytes(b"G")
    left.journal.add_piece(Piece(0, 1, SegmentHash().digest))
    left.release()
    pulled, _ = pull_next(clients, hub, content)
    assert pulled.transferred_bytes <= SAMPLES_BYTES
    assert list(clients.volume.partial.iterdir()) == []


def test_a_file_that_a_transfer_began_is_resumed(clients: Clients, hub: HubService) -> None:
    file = model()
    other_template(file)
    content = file.to_bytes()
    (clients.volume.partial / sha256(content).hexdigest()).mkdir(parents=True)
    pulled, _ = pull_next(clients, hub, content)
    assert pulled.transferred_bytes == len(content)
