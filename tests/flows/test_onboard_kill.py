"""SIGKILL at random moments of an onboarding: nothing half-made is ever visible, and little is fetched twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.hub import Service
from infra.local.prefect_server import PrefectServer
from paddock.lifecycle.parts import Parts
from paddock.model.names import ModelName
from paddock.model.source import Expected
from paddock.transfer.digest import verify_file
from tests.support.gguf import TYPE_F32, U32, tiny_llama

NAME = "org/larger-GGUF"
MODEL = ModelName.parse(NAME)
SEGMENT_BYTES = 256 * 1024
RATE = 3 * 1024 * 1024
RUN_S = 14.0
"""About how long an undisturbed onboarding of this model takes: kills fall anywhere in it."""


def larger() -> bytes:
    """A sound model of some 9 MB: long enough to be killed in the middle, and more than thirty segments."""
    file = tiny_llama(layers=4, width=256, inner=512, kind=TYPE_F32)
    return file.set("llama.context_length", U32, 1024).to_bytes()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.torture)])
def test_onboarding_survives_kill_9_at_random_moments(
    parts: Parts, hub: Service, prefect_server: PrefectServer, tmp_path: Path, kills: int
) -> None:
    content = larger()
    assert len(content) > 20 * SEGMENT_BYTES
    hub.repository(NAME).commit({"larger-F32.gguf": content, "config.json": b"{}"})
    environment = {
        **os.environ,
        **prefect_server.environment,
        "PADDOCK_SEGMENT_BYTES": str(SEGMENT_BYTES),
        "PADDOCK_LIMIT_RATE": str(RATE),
    }
    command = [sys.executable, "-m", "paddock", "onboard", NAME, "--json"]
    moments = random.Random(20261122)  # the same moments in every run: what is found can be found again
    hub.reset_stats()
    done = 0
    for _ in range(kills):
        with (tmp_path / "log").open("ab") as log:
            child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        try:
            child.wait(timeout=moments.uniform(1.0, RUN_S))
            done += 1
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        _nothing_half_made(parts, content)

    last = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert last.returncode == 0, last.stderr[-2000:]
    assert json.loads(last.stdout)["promoted"] is True
    _nothing_half_made(parts, content)
    assert (parts.volume.model_path(MODEL) / "larger-F32.gguf").read_bytes() == content
    # A kill can cost what was in flight, which is at most a segment and the one that was begun.
    sent = hub.stats().bytes_sent[f"{NAME}/larger-F32.gguf"]
    assert sent <= len(content) + (kills - done) * 2 * SEGMENT_BYTES
    assert list(parts.volume.partial.iterdir()) == []


def _nothing_half_made(parts: Parts, content: bytes) -> None:
    """Every blob has its digest, every snapshot its files, and the pointer, where there is one, a snapshot."""
    for blob in (parts.settings.volume / ".paddock" / "blobs").glob("sha256/*/*"):
        verify_file(blob, Expected(blob.stat().st_size, blob.name), SEGMENT_BYTES)  # type: ignore[arg-type] # its name is a digest
    for manifest in parts.volume.snapshots():
        snapshot = parts.volume.snapshot_path(manifest.model, manifest.revision)
        for file in manifest.files:
            assert (snapshot / file.path).stat().st_size == file.size
    pointer = parts.volume.model_path(MODEL)
    if pointer.is_symlink():
        assert (pointer / "larger-F32.gguf").read_bytes() == content
