"""How fast a blob of 1 GB comes back from a local S3 (SeaweedFS), beside two ways that verify nothing.

    paddock   onto a volume: ranges, the sha256 of all and the BLAKE3 of each segment, fsync, and its place as a blob
    s5cmd     the command `s5cmd cp`, as it comes
    boto3     `download_file`, as it comes

The two libraries are timed from the inside, since in a worker the interpreter runs already, s5cmd as a command. They
take turns, since the machine is shared, and medians are compared. The server shares the cores with its client.
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
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from infra.local.s3 import S3Server
from infra.local.service import ServiceError
from paddock.model.artifact import SnapshotFile
from paddock.model.names import Sha256
from paddock.model.units import human_bytes
from tests.support.stores import S3Store

SIZE = 1_000_000_000
SEGMENT_BYTES = 64 * 1024 * 1024
OF_S5CMD = 1.5
ROOT = Path(__file__).parents[2]


def run(rounds: int) -> bool:
    """Print the table; whether every bound holds."""
    s5cmd = shutil.which("s5cmd", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}")
    if s5cmd is None:
        print("no s5cmd: install the extra `dev`")
        return False
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        try:
            with S3Server.start(Path(work, "s3")) as server:
                digest = _fill(server, Path(work, "made"))
                return _compare(server, digest, Path(work, "out"), s5cmd, rounds)
        except ServiceError as error:
            print(error)
            return False


def _fill(server: S3Server, made: Path) -> Sha256:
    """Bytes that nothing can compress, as a blob of the store."""
    block = os.urandom(SIZE // 10)
    with made.open("wb") as file:
        for part in range(10):
            file.write(bytes([part]) + block[1:])
    with made.open("rb") as file:
        digest = Sha256(_digest(file.fileno()))
    store = S3Store(_uri(server), client=server.client())
    store.put_blob(made, SnapshotFile(path="model.bin", size=SIZE, sha256=digest), segment_bytes=SEGMENT_BYTES)
    made.unlink()
    return digest


def _digest(descriptor: int) -> str:
    seen = sha256()
    while block := os.read(descriptor, 1024 * 1024):
        seen.update(block)
    return seen.hexdigest()


def _uri(server: S3Server) -> str:
    return f"s3://{server.bucket}/bench"


def _compare(server: S3Server, digest: Sha256, out: Path, s5cmd: str, rounds: int) -> bool:
    environment = {**os.environ, **server.environment, "PADDOCK_S3_URI": _uri(server)}
    environment["S3_ENDPOINT_URL"] = server.endpoint  # s5cmd's own name for it
    environment.pop("PADDOCK_LIMIT_RATE", None)

    def inside(how: str) -> float:
        command = [sys.executable, "-m", "tests.bench.restore_one", how, digest, str(SIZE), str(out)]
        told = json.loads(_done(command, environment))
        peaks[how] = max(peaks.get(how, 0), told["peak_bytes"])
        return float(told["seconds"])

    def by_s5cmd() -> float:
        began = time.monotonic()
        _done([s5cmd, "cp", f"{_uri(server)}/blobs/sha256/{digest}", str(out / "model.bin")], environment)
        return time.monotonic() - began

    peaks: dict[str, int] = {}
    ways: dict[str, Callable[[], float]] = {
        "paddock": partial(inside, "paddock"),
        "s5cmd": by_s5cmd,
        "boto3": partial(inside, "boto3"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            _empty(out)
            took = way()
            if number:  # the first round only wakes what sleeps
                times[name].append(took)
    medians = {name: statistics.median(each) for name, each in times.items()}
    print(f"\nrestore of {human_bytes(SIZE)} from a local S3, {rounds} rounds\n")
    print(f"{'':10}{'median':>9}{'fastest':>10}{'slowest':>10}{'of paddock':>13}")
    for name, each in times.items():
        ratio = medians[name] / medians["paddock"]
        print(f"{name:10}{medians[name]:7.2f} s{min(each):8.2f} s{max(each):8.2f} s{ratio:13.2f}")
    of_s5cmd, of_boto3 = medians["paddock"] / medians["s5cmd"], medians["paddock"] / medians["boto3"]
    holds = of_s5cmd <= OF_S5CMD and of_boto3 < 1
    print(f"paddock, verified and on the disk, takes {of_s5cmd:.2f} times s5cmd's time (wanted at most {OF_S5CMD}) and")
    print(f"{of_boto3:.2f} times boto3's (wanted under 1){'' if holds else ': falls short'}; ", end="")
    print(f"peak memory {peaks['paddock'] / 1e6:.0f} MB, boto3's {peaks['boto3'] / 1e6:.0f} MB")
    return holds


def _done(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceError(f"{command[0]} failed: {done.stderr[-1000:]}")
    return done.stdout


def _empty(out: Path) -> None:
    """What the one before wrote is not for this one to write."""
    os.sync()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
