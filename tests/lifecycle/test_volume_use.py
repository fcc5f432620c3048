"""The history of the volume's use: what a sample counts, and how the history stays small."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep import volume_use
from paddock.lifecycle.upkeep.volume_use import MOST_MODELS, MOST_SAMPLES, UseHistory, UseSample
from paddock.model.names import ModelName
from tests.support.stores import A, B, publish

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def model(name: str) -> ModelName:
    return ModelName.parse(name)


def test_a_blob_counts_once_and_one_without_a_snapshot_is_unused(clients: Clients, tmp_path: Path) -> None:
    volume = clients.volume
    volume.prepare()
    publish(volume, A, {"m.gguf": b"x" * 1000, "shared": b"s" * 10}, tmp_path, model=model("a/one"))
    publish(volume, B, {"m.gguf": b"y" * 2000, "shared": b"s" * 10}, tmp_path, model=model("a/one"))
    publish(volume, A, {"m.gguf": b"z" * 500, "shared": b"s" * 10}, tmp_path, model=model("b/two"))
    volume.add_bytes(b"nobody names this")
    sample = volume_use.sample(clients)
    assert sample.models == {"a/one": 3010, "b/two": 500}
    assert (sample.other_models_bytes, sample.unused_bytes) == (0, 17)
    assert sample.used_bytes == volume.sizes()[1]
    assert sample.free_bytes > 0


def test_a_sample_names_the_largest_models(clients: Clients, tmp_path: Path) -> None:
    clients.volume.prepare()
    for number in range(1, MOST_MODELS + 3):
        content = {"m.gguf": bytes([number]) * number}
        publish(clients.volume, A, content, tmp_path, model=model(f"org/m{number}"))
    sample = volume_use.sample(clients)
    assert list(sample.models) == [f"org/m{number}" for number in range(MOST_MODELS + 2, 2, -1)]
    assert sample.other_models_bytes == 1 + 2


def test_a_day_has_one_sample_and_two_years_are_kept() -> None:
    history = UseHistory()
    for hour in range(0, 24 * (MOST_SAMPLES + 10), 12):
        history = history.add(UseSample(NOON + timedelta(hours=hour), hour, {}))
    assert len(history.samples) == MOST_SAMPLES
    days = [sample.at.date() for sample in history.samples]
    assert len(set(days)) == len(days)
    assert history.samples[-1].free_bytes == 24 * (MOST_SAMPLES + 10) - 12


def test_a_history_is_read_as_it_was_written(clients: Clients) -> None:
    clients.volume.prepare()
    written = volume_use.record(clients)
    assert volume_use.read(clients).to_json() == written.to_json()


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "{}",
        '{"samples": [{}]}',
        '{"samples": [{"at": "2026-05-01T00:00:00", "free_bytes": 1, "models": {}, "other_models_bytes": 0,'
        ' "unused_bytes": 0}]}',
        '{"samples": [{"at": "2026-05-01T00:00:00+00:00", "free_bytes": -1, "models": {},'
        ' "other_models_bytes": 0, "unused_bytes": 0}]}',
    ],
    ids=["empty", "a list", "no keys", "an empty sample", "no time zone", "a negative size"],
)
def test_a_damaged_history_begins_anew(clients: Clients, damaged: str) -> None:
    clients.volume.prepare()
    clients.volume.notes.write("volume/use.json", damaged)
    assert len(volume_use.record(clients).samples) == 1
    assert len(volume_use.read(clients).samples) == 1
