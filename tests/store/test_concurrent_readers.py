"""Readers during promotions: they always see a complete model, of one revision."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from paddock.model.names import ModelName
from paddock.store.volume import Volume
from tests.support.model_reader import CONTENTS
from tests.support.stores import MODEL, Q4, A, B, C, id_of, publish

SAMPLE = pytest.mark.parametrize("flips", [40, pytest.param(200, marks=pytest.mark.torture)])


@contextmanager
def reading(volume: Volume) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that read the model by its name until they get a line on stdin."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.model_reader", str(volume.root)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]


@SAMPLE
def test_promotions_and_rollbacks_are_never_seen_half_done(volume: Volume, flips: int) -> None:
    for revision, name in ((A, "a"), (B, "b"), (C, "c")):
        publish(volume, revision, CONTENTS[name], volume.root)
    volume.promote(id_of(A), reason="first")
    with reading(volume) as readers, (volume.model_path(MODEL) / "m.gguf").open("rb") as opened:
        for number in range(flips):
            if number % 4 == 3:
                volume.rollback(MODEL, reason="back")
            else:
                now = volume.promoted(MODEL).default_id or id_of(A)
                volume.promote(id_of({A: B, B: C, C: A}[now.revision]), reason="on")
        assert opened.read() == CONTENTS["a"]["m.gguf"], "a file that was open keeps its content"
        reports = [json.loads(reader.communicate("done\n", timeout=60)[0]) for reader in readers]
    assert [report["count"] for report in reports] == [0, 0], reports
    print(f"{flips} flips, {sum(report['rounds'] for report in reports)} readings: nothing missing, nothing mixed")
    assert len(volume.history(MODEL)) == 1 + flips


@SAMPLE
def test_a_default_that_moves_between_variants_is_never_seen_half_done(volume: Volume, flips: int) -> None:
    ids = [id_of(A), id_of(A, Q4), id_of(B)]
    for id, name in zip(ids, "abc", strict=True):
        publish(volume, id.revision, CONTENTS[name], volume.root, variant=id.variant)
    volume.promote(ids[0], reason="first")
    with reading(volume) as readers:
        for number in range(flips // 2):
            if number % 4 == 3:
                volume.rollback(MODEL, reason="back")
            else:
                volume.promote(ids[number % 3], reason="on")
        reports = [json.loads(reader.communicate("done\n", timeout=60)[0]) for reader in readers]
    assert [report["count"] for report in reports] == [0, 0], reports


def test_an_open_file_stays_readable_when_its_revision_is_removed(volume: Volume) -> None:
    publish(volume, A, CONTENTS["a"], volume.root)
    publish(volume, B, CONTENTS["b"], volume.root)
    volume.promote(id_of(A), reason="first")
    with (volume.model_path(MODEL) / "m.gguf").open("rb") as opened:
        volume.promote(id_of(B), reason="on")
        volume.remove(MODEL, revision=A)
        assert opened.read() == CONTENTS["a"]["m.gguf"]


def test_two_models_share_one_blob_until_both_are_removed(volume: Volume) -> None:
    other = ModelName.parse("another/model")
    shared, own = b"s" * 100_000, b"o" * 1000
    first = publish(volume, A, {"m.gguf": shared, "config.json": b"{}"}, volume.root)
    second = publish(volume, B, {"model.gguf": shared, "own.gguf": own}, volume.root, model=other)
    volume.promote(id_of(A), reason="a test")
    volume.promote(second.id, reason="a test")
    assert volume.sizes() == (first.size_bytes + second.size_bytes, len(shared) + len(own) + 2)
    paths = (volume.model_path(MODEL) / "m.gguf", volume.model_path(other) / "model.gguf")
    assert len({path.stat().st_ino for path in paths}) == 1

    assert volume.remove(MODEL) == ([first.id], 2)
    assert volume.sizes() == (second.size_bytes, second.size_bytes)
    assert paths[1].read_bytes() == shared
    assert [file.sha256 for file in second.files if volume.has_blob(file.sha256, file.size)] == [
        file.sha256 for file in second.files
    ]
    assert stored_bytes(volume) == second.size_bytes
    assert volume.remove(other) == ([second.id], second.size_bytes)
    assert stored_bytes(volume) == 0


def stored_bytes(volume: Volume) -> int:
    """The bytes of all files below the root, each inode once, without manifests and histories."""
    sizes = {}
    for path in Path(volume.root).rglob("*"):
        status = path.lstat()
        if path.is_file() and not path.is_symlink() and path.suffix not in {".json", ".jsonl"}:
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())
