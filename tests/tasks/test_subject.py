"""The keys of artifacts: what does not stand for the promoted snapshot replaces nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddock.lifecycle.clients import Clients, connect
from paddock.settings import Settings
from tasks.subject import ArtifactSubject
from tests.support.benchmarks import DISTURBED, GPU_HOST, a_benchmark
from tests.support.stores import A, B, publish


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    clients = connect(Settings(volume=tmp_path / "models"))
    clients.volume.prepare()
    return clients


def test_each_other_benchmark_has_a_key_of_its_own(clients: Clients, tmp_path: Path) -> None:
    promoted, candidate = (publish(clients.volume, one, {"m.gguf": one.encode()}, tmp_path) for one in (A, B))
    clients.volume.promote(promoted.id, reason="a test")
    subject = ArtifactSubject.of(clients, promoted.id)
    others = [a_benchmark(context_tokens=512), a_benchmark(doubts=DISTURBED), a_benchmark(machine=GPU_HOST)]
    subjects = [subject, ArtifactSubject.of(clients, candidate.id), *map(subject.beside, others)]
    assert len({one.key("benchmark") for one in subjects}) == len(subjects)
    assert subject.beside(others[0]).key("benchmark") == subject.beside(a_benchmark(decode=1, context_tokens=512)).key(
        "benchmark"
    ), "the same from run to run"
    assert subject.beside(others[0]).name == f"{promoted.id.short} with 512 tokens of context"
