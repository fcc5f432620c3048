"""Measure how fast a scrub reads, against `sha256sum` on the same files in the same run, both on one core.

Both read the files from the page cache, so that their own work is compared, and alternate, since the machine is shared;
the medians of their processor time and of their wall time are compared. Then a scrub with a rate limit is timed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from paddock.store.volume import Volume
from tests.support.stores import A, file_of, id_of, manifest_of

SIZE = 1_000_000_000
SEGMENT_BYTES = 64 * 1024 * 1024
MIN_RATIO = 0.8
LIMIT_BYTES_PER_S = 100_000_000
MAX_DEVIATION = 0.1
ROOT = Path(__file__).parents[2]
_SCRUB = """
import json, sys, time
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.scrub import scrub
limit = int(sys.argv[1]) or None
clients = connect()
began, cpu = time.monotonic(), time.process_time()
scrubbed = scrub(clients, limit_bytes_per_s=limit, max_seconds=10 if limit else None)
assert not scrubbed.damaged and (limit or scrubbed.complete)
print(json.dumps([time.monotonic() - began, time.process_time() - cpu, scrubbed.checked_bytes]))
"""


def run(rounds: int) -> bool:
    """Print the results, and return whether every bound is met."""
    if shutil.which("taskset") is None:
        print("taskset is not installed: install util-linux")
        return False
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        volume = Volume(Path(work, "models"))
        paths = [str(path) for path in _store(volume)]
        core = str(min(os.sched_getaffinity(0)))
        _sha256sum(paths, core)  # a warm-up, which reads both files into the page cache
        theirs, ours = [], []
        for _ in range(rounds):
            theirs.append(_sha256sum(paths, core))
            ours.append(_scrub(volume, core))
        held = [_compare("wall time", [one[0] for one in ours], [one[0] for one in theirs])]
        held.append(_compare("processor time", [one[1] for one in ours], [one[1] for one in theirs]))
        held.append(_limited(volume, core))
    return all(held)


def _store(volume: Volume) -> list[Path]:
    """Store a snapshot of incompressible bytes in two files, and return the paths of its blobs."""
    volume.prepare()
    contents = {name: os.urandom(SIZE // 2) for name in ("first.bin", "second.bin")}
    for content in contents.values():
        staged = volume.partial / "staged"
        staged.write_bytes(content)
        file = file_of("any", content, segment_bytes=SEGMENT_BYTES)
        volume.add_blob(staged, file.sha256, file.size)
    manifest = manifest_of(A, contents, segment_bytes=SEGMENT_BYTES)
    volume.publish(manifest)
    assert volume.snapshot(id_of(A)) == manifest
    return [volume.blob_path(file.sha256) for file in manifest.files]


def _scrub(volume: Volume, core: str, *, limit: int = 0) -> tuple[float, float, int]:
    """(wall time in seconds, processor time in seconds, bytes read) of a scrub, without the interpreter's start."""
    environment = {**os.environ, "PADDOCK_VOLUME": str(volume.root)}
    command = ["taskset", "-c", core, sys.executable, "-c", _SCRUB, str(limit)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    wall_s, cpu_s, read_bytes = json.loads(done.stdout)
    return wall_s, cpu_s, read_bytes


def _sha256sum(paths: list[str], core: str) -> tuple[float, float]:
    began, before = time.monotonic(), os.times()
    subprocess.run(["taskset", "-c", core, "sha256sum", *paths], capture_output=True, check=True)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, cpu_s


def _compare(what: str, ours_s: list[float], theirs_s: list[float]) -> bool:
    ours, theirs = (SIZE / statistics.median(times) / 1e6 for times in (ours_s, theirs_s))
    holds = ours >= MIN_RATIO * theirs
    print(
        f"scrub of {SIZE / 1e9:.0f} GB on one core: {ours:.0f} MB/s of {what}, sha256sum {theirs:.0f} MB/s, ratio"
        f" {ours / theirs:.2f} (bound: {MIN_RATIO}){'' if holds else ': missed'}"
    )
    return holds


def _limited(volume: Volume, core: str) -> bool:
    seconds, _, read_bytes = _scrub(volume, core, limit=LIMIT_BYTES_PER_S)
    rate = read_bytes / seconds
    holds = abs(rate / LIMIT_BYTES_PER_S - 1) <= MAX_DEVIATION
    print(
        f"scrub with a limit of {LIMIT_BYTES_PER_S / 1e6:.0f} MB/s: {rate / 1e6:.1f} MB/s over {seconds:.1f} s"
        f" (bound: within {MAX_DEVIATION:.0%}){'' if holds else ': missed'}"
    )
    return holds
