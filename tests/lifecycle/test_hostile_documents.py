"""Hostile documents in the places of Paddock's own, on the volume and in the bucket, under every command.

Another user of a shared volume or bucket can write anything there: pipes, links, devices, nested or endless JSON, wrong
types. Whatever it is, a command ends within seconds with a result or with one sentence, and changes nothing outside.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from paddock.lifecycle.clients import REMOTE_STORES, connect
from tests.support.directory_store import ROOTS
from tests.support.fault_totals import Faults
from tests.support.memory_directory import memory_directory
from tests.support.planted import MODEL, OTHER, SECRET, Planted, Planter, build
from tests.support.program import Outcome, Paddock, paddock, program
from tests.support.stores import A, B
from tests.support.tiny_hub import own_cache

__all__ = ["paddock"]

LIMIT_S = 10
FIRST = f"{MODEL}@{A}"
READING: tuple[tuple[str, ...], ...] = (
    ("ls", "--json"),
    ("ls",),
    ("ls", "--s3", "--json"),
    ("show", FIRST, "--json"),
    ("show", str(MODEL)),
    ("show", FIRST, "--dossier"),
    ("history", str(MODEL), "--json"),
    ("history", str(MODEL)),
    ("usage", "--json"),
    ("gc", "--dry-run", "--json"),
    ("gc", "--dry-run"),
    ("gc", "--s3", "--dry-run", "--json"),
    ("verify", "--json"),
    ("verify", FIRST),
    ("verify", "--s3", "--json"),
    ("cost", FIRST, "--json"),
    ("refresh", "--dry-run", "--json"),
)
WRITING: tuple[tuple[str, ...], ...] = (
    ("gc", "--json"),
    ("gc", "--keep-bytes", "1", "--json"),
    ("gc", "--s3", "--keep-bytes", "1", "--json"),
    ("pin", FIRST),
    ("unpin", f"{MODEL}@{B}"),
    ("rm", f"{MODEL}@{B}", "--json"),
    ("rm", str(MODEL)),
    ("rollback", str(MODEL), "--json"),
    ("promote", f"{MODEL}@{B}", "--force", "--reason", "a test"),
    ("cache", FIRST, "--json"),
    ("restore", FIRST, "--json"),
    ("verify", "--repair", "--json"),
)
RELATED: dict[str, tuple[tuple[str, ...], ...]] = {
    "bucket/": (("ls", "--s3", "--json"), ("gc", "--s3", "--dry-run", "--json"), ("restore", FIRST), ("cache", FIRST)),
    "/reports/refresh": (("refresh", "--dry-run", "--json"),),
    "/reports": (("show", FIRST, "--dossier"), ("show", FIRST, "--dossier", "--json"), ("cost", FIRST)),
    "/history": (("history", str(MODEL)), ("rollback", str(MODEL)), ("ls",)),
    "/usage": (("usage", "--json"), ("usage",), ("ls",)),
    "/snapshots": (("show", FIRST), ("verify", FIRST), ("ls",), ("gc", "--json"), ("show", FIRST, "--dossier")),
    "/verified": (("verify", "--json"), ("gc", "--json"), ("gc", "--s3", "--json")),
    "/leases": (("rm", f"{MODEL}@{B}"), ("gc", "--json")),
    "/partial": (("gc", "--json"), ("restore", FIRST)),
    "/quarantine": (("gc", "--json"), ("verify", "--repair", "--json")),
}
"""Commands that read the documents of a directory, the more exact ones first."""
SLOW: tuple[tuple[str, ...], ...] = (
    ("doctor", "--json"),
    ("inspect", FIRST, "--json"),
    ("plan", FIRST, "--json", "--ctx", "128"),
)
"""Commands that start processes."""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A volume and a bucket with all documents, and an environment that names them."""
    with memory_directory() as memory:
        home = memory / "home"
        home.mkdir()
        monkeypatch.setitem(REMOTE_STORES, "directory", "tests.support.directory_store")
        monkeypatch.setitem(ROOTS, "planted", home / "bucket")
        for name, value in {
            "PADDOCK_VOLUME": str(home / "models"),
            "PADDOCK_S3_URI": "directory://planted/",
            "PADDOCK_CATALOG": str(home / "catalog.yaml"),
            "PADDOCK_SEGMENT_BYTES": str(64 * 1024),
            "PADDOCK_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "XDG_CACHE_HOME": str(own_cache(home)),
        }.items():
            monkeypatch.setenv(name, value)
        (home / "bucket").mkdir()
        (home / "catalog.yaml").write_text(f"models:\n  - model: {MODEL}\n  - model: {OTHER}\n")
        build(connect(), home)
        yield home


class Hangs(BaseException):
    """A command took longer than LIMIT_S."""


@contextmanager
def time_limit() -> Iterator[None]:
    """End a block that takes longer than LIMIT_S."""

    def end(_: int, frame: FrameType | None) -> None:
        raise Hangs("".join(traceback.format_stack(frame)[-4:]))

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outside(home: Path) -> dict[str, tuple[int, str]]:
    """The times of change and contents of what lies outside of the volume and the bucket."""
    root = home / "outside"
    return {
        path.relative_to(root).as_posix(): (path.lstat().st_mtime_ns, path.read_text() if path.is_file() else "")
        for path in sorted(root.rglob("*"))
    }


def problems_of(outcome: Outcome) -> Iterator[str]:
    """Problems in how a command ended: it must be a result or one sentence, and tell nothing from outside."""
    text = outcome.stdout + outcome.stderr
    if outcome.status not in {0, 1, 2, 3}:
        yield f"status {outcome.status}: {text[-500:]}"
    if outcome.status and not text:
        yield f"status {outcome.status} without a word"
    for sign in ("Traceback", "internal error", "fault in Paddock", SECRET):
        if sign in text:
            yield text[-2000:]


def attack(
    paddock: Paddock,
    home: Path,
    *,
    documents: int,
    seed: int,
    faults: Faults,
    together: int = 1,
    write_every: int = 2,
    slow_every: int = 10**9,
) -> list[str]:
    """Plant so many documents, `together` at once, and run a command over them, after some of them a command that
    writes, and before some a slow one. Returns what went wrong."""
    planter, choose = Planter(home, seed=seed), random.Random(seed)
    untouched, listed = outside(home), others(paddock("ls", "--json"))
    verdict = paddock("show", FIRST, "--json").json["verdict"]
    problems: list[str] = []
    for number in range(documents // together):
        planted: list[Planted] = []
        for _ in range(together):
            planted.append(planter.plant(planted))
        related = next((found for part, found in RELATED.items() if part in planted[-1].place), READING)
        commands = [choose.choice(related if choose.random() < 0.6 else READING)]
        if number % slow_every == slow_every - 1:
            commands.insert(0, choose.choice(SLOW))
        if number % write_every == write_every - 1:
            commands.append(choose.choice(WRITING))
        for command in commands:
            began = time.monotonic()
            outcome, found = run(paddock, command)
            if time.monotonic() - began > LIMIT_S:
                found.append("it took too long")
            if outside(home) != untouched:
                found.append("something outside was changed")
            if outcome is not None and outcome.status == 0 and "--json" in command:
                # A file of a snapshot that was edited is damaged, and never better than it was.
                edited = {"reject"} if any("/snapshots/" in one.place for one in planted) else set[str]()
                if command[0] == "show" and outcome.json["verdict"] not in {verdict, *edited}:
                    found.append(f"another verdict: {outcome.json['verdict']}")
                is_models = all(MODEL.slug in one.place for one in planted)
                if command == ("ls", "--json") and is_models and others(outcome) != listed:
                    found.append("the other model is shown otherwise")
            faults.add(failed=bool(found))
            problems += [f"{seed}.{number} {planted} {' '.join(command)}: {problem}" for problem in found]
        if any(command not in READING for command in commands):
            planter.restore()
        else:
            for one in planted:
                planter.take_back(one)
    return problems


def run(paddock: Paddock, command: tuple[str, ...]) -> tuple[Outcome | None, list[str]]:
    """(How a command ended, what was wrong with it)."""
    try:
        with time_limit():
            outcome = paddock(*command)
    except Hangs as error:
        return None, [f"it hangs at {error}"]
    return outcome, list(problems_of(outcome))


def others(listing: Outcome) -> list[object]:
    """The rows of the other model."""
    return [row for row in listing.json["models"] if row["model"] == str(OTHER)]


def test_no_hostile_document_hangs_a_command_or_ends_it_with_a_fault(
    paddock: Paddock, home: Path, faults: Faults
) -> None:
    problems = attack(paddock, home, documents=300, seed=22, faults=faults, together=5, write_every=20)
    assert not problems, "\n\n".join(problems)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10))
def test_no_hostile_document_of_many_does(paddock: Paddock, home: Path, faults: Faults, seed: int) -> None:
    problems = attack(paddock, home, documents=500, seed=seed, faults=faults, slow_every=100)
    assert not problems, "\n\n".join(problems)


def test_the_cure_for_what_was_planted_works(paddock: Paddock, home: Path) -> None:
    inner = home / "models/.paddock"
    manifest, history = inner / f"snapshots/{MODEL.slug}/{A}/Q8_0/manifest.json", inner / f"history/{MODEL.slug}.jsonl"
    for path in (manifest, history):
        path.unlink()
        os.mkfifo(path)
    listed = paddock("ls", "--json")
    assert [row["revision"] for row in listed.json["models"] if row["model"] == str(MODEL)] == [B]

    refused = paddock("history", str(MODEL), "--json")
    assert (refused.status, refused.json["error"]) == (1, "no-permission")
    assert refused.json["message"] == f"{history} is in the way: it is not a regular file"
    assert refused.json["cure"].startswith("move it away")
    history.rename(home / "moved away")
    assert paddock("history", str(MODEL), "--json").status == 0

    refused = paddock("verify", FIRST, "--json")
    assert (refused.status, refused.json["error"]) == (2, "corrupt-file")
    assert f"`paddock rm {MODEL}:Q8_0@{A}`" in refused.json["cure"]
    assert paddock("gc", "--dry-run", "--json").status == 0
    assert paddock("rm", f"{MODEL}:Q8_0@{A}", "--json").status == 0
    assert not manifest.parent.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"requests": 1e999}'], ids=["nested lists", "an infinite number"])
def test_a_planted_document_ends_no_process(monkeypatch: pytest.MonkeyPatch, home: Path, text: str) -> None:
    monkeypatch.delenv("PADDOCK_S3_URI")
    manifest = home / f"models/.paddock/snapshots/{MODEL.slug}/{A}/Q8_0/manifest.json"
    manifest.unlink()
    manifest.write_text(text)
    listed = program("ls")
    assert (listed.status, list(problems_of(listed))) == (0, [])
