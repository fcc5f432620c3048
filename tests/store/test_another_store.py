"""Another object service needs one package and one line of wiring for `paddock cache` and `paddock restore`."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.lifecycle.clients import REMOTE_STORES, Clients, connect
from tests.support import directory_store
from tests.support.program import Paddock, paddock
from tests.support.tiny_hub import MODEL, NAME, tiny_model

__all__ = ["paddock"]


def test_cache_and_restore_work_with_a_store_on_a_directory(
    clients: Clients, hub: HubService, paddock: Paddock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(directory_store.ROOTS, "shared", tmp_path / "shared")
    monkeypatch.setenv("PADDOCK_S3_URI", "directory://shared/models")
    refused = paddock("ls", "--s3", "--json")
    assert (refused.status, refused.json["error"]) == (3, "bad-setting")
    assert "expected s3://bucket/prefix" in refused.json["message"]

    monkeypatch.setitem(REMOTE_STORES, "directory", "tests.support.directory_store")  # the line of wiring

    assert paddock("pull", NAME, "--json").status == 0
    cached = paddock("cache", NAME, "--json").json
    assert cached["where"] == "directory://shared/models"
    assert cached["bytes_transferred"] == sum(file["sent_bytes"] for file in cached["files"]) > len(tiny_model())
    assert paddock("cache", NAME, "--json").json["bytes_transferred"] == 0

    promoted = clients.volume.promoted(MODEL)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "another"))
    hub.reset_stats()
    restored = paddock("restore", NAME, "--json").json
    assert {file["source"] for file in restored["files"]} == {"s3"}
    assert hub.stats().total_bytes_sent == 0
    assert connect().volume.promoted(MODEL) == promoted
    assert (Path(restored["path"]) / "tiny-Q8_0.gguf").read_bytes() == tiny_model()
    listed = paddock("ls", "--s3", "--json").json
    assert [(row["model"], row["default"]) for row in listed["models"]] == [(NAME, True)]
