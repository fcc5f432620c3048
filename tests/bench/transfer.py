"""How fast files come, and what that costs, beside other ways to fetch the same file with its check.

Each contestant is timed from where it is told to begin to a file whose bytes were compared with the Hub's digest:

    paddock        this engine, with its questions to the Hub; the check is in it
    hf             the commands `hf download`, then `hf cache verify`
    hf_transfer    hf_transfer with 8 chunks of 10 MiB at once, then the command `openssl dgst -sha256`
    hf_transfer-64 the same with 64 at once
    aria2c         the command `aria2c -x16`, then the same

The two libraries are timed from the inside, since in a worker the interpreter runs already. Paddock's file is on the
disk when it is done (fsync); those of the others may still be in memory.

They take turns, since the machine is shared, and medians are compared. The *floor* is what no way can beat: the larger
of line time (the file over as many connections as Paddock opens, each at the limit) and hashing time. nginx sends the
bytes; its limit holds for each answer, and lets the first second's worth of it pass at once: so 64 chunks of 10 MiB are
not limited at all, and there no more is wanted than to be faster.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.nginx import Nginx
from infra.local.service import ServiceError
from paddock.model.units import human_bytes
from paddock.settings import Settings
from tests.support.hub import hub_environment

SIZE = 1_000_000_000
RATE = 40_000_000
MODEL, FILE = "bench/one", "model.gguf"
FOUR = "bench/four"
ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 300_000_000
AS_ONE = 1.0
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Contestant:
    """`commands` for an empty directory, run one after the other; `wanted` is how many times as long it has to take as
    Paddock."""

    name: str
    needs: str | None
    commands: Callable[[Path], list[list[str]]]
    wanted: float


def run(rounds: int) -> bool:
    """Print the tables; whether every bound holds."""
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        hub = LocalHub(Path(work, "hub"))
        try:
            _fill(hub)
            with _serving(hub, Path(work, "limited"), RATE) as service:
                held = [_compare(service, Path(work), rounds, f"{RATE // 10**6} MB/s for each connection", RATE)]
            with _serving(hub, Path(work, "free"), 0) as service:
                held += [
                    _compare(service, Path(work), rounds, "no limit", None),
                    _four_at_once(service, Path(work), rounds),
                ]
        except ServiceError as error:
            print(error)
            return False
    return all(held)


def _fill(hub: LocalHub) -> None:
    """Files that differ from each other, of bytes that nothing can compress."""
    block = os.urandom(SIZE // 10)
    made = hub.root.with_name("made")
    for number in range(4):
        with made.open("wb") as file:
            for part in range(10):
                file.write(bytes([number, part]) + block[2:])
        hub.repository(FOUR).commit({f"{number}.gguf": made})
        if number == 0:
            hub.repository(MODEL).commit({FILE: made})
        made.unlink()


@contextmanager
def _serving(hub: LocalHub, state: Path, rate: int) -> Iterator[HubService]:
    with ExitStack() as stack:
        nginx = stack.enter_context(Nginx.start(state, hub.root, rate_bytes_per_s=rate))
        yield stack.enter_context(serve_hub(hub, bytes_address=nginx.address))


def _contestants(service: HubService) -> list[Contestant]:
    url = f"{service.address}/{MODEL}/resolve/main/{FILE}"

    def hashed(directory: Path) -> list[str]:
        return ["openssl", "dgst", "-sha256", str(directory / FILE)]

    # Its chunks of 10 MiB are those that huggingface_hub gave it.
    hf_transfer = (
        "import hf_transfer, json, sys, time; started = time.monotonic();"
        "hf_transfer.download(sys.argv[1], sys.argv[2], int(sys.argv[3]), 10485760, headers={});"
        "print(json.dumps({'seconds': time.monotonic() - started}))"
    )

    def by_hf_transfer(directory: Path, *, files: int) -> list[list[str]]:
        return [[sys.executable, "-c", hf_transfer, url, str(directory / FILE), str(files)], hashed(directory)]

    aria2c = ["aria2c", "--quiet", "-x16", "-s16", "--file-allocation=falloc", "--no-conf"]
    return [
        Contestant("paddock", None, lambda at: [_paddock(MODEL, at, at_once=1)], 1.0),
        Contestant(
            "hf",
            None,
            lambda at: [
                [str(_BIN / "hf"), "download", MODEL, FILE, "--local-dir", str(at)],
                [str(_BIN / "hf"), "cache", "verify", MODEL, "--local-dir", str(at)],
            ],
            14.0,
        ),
        *(
            Contestant(name, "openssl", partial(by_hf_transfer, files=files), wanted)
            for name, files, wanted in (("hf_transfer", 8, 2.0), ("hf_transfer-64", 64, 1.0))
        ),
        Contestant("aria2c", "aria2c", lambda at: [[*aria2c, "-d", str(at), "-o", FILE, url], hashed(at)], 1.6),
    ]


def _paddock(model: str, directory: Path, *, at_once: int) -> list[str]:
    return [sys.executable, "-m", "tests.bench.fetch_all", model, str(directory), str(at_once)]


def _compare(service: HubService, work: Path, rounds: int, line: str, rate: int | None) -> bool:
    there = [one for one in _contestants(service) if one.needs is None or shutil.which(one.needs)]
    environment = hub_environment(service, work / "home")
    times: dict[str, list[float]] = {one.name: [] for one in there}
    for number in range(rounds + 1):
        for one in there:
            took = _timed(one, work / "out", environment)
            if (
                number
            ):  # the first round only wakes what sleeps: caches, and memory that the host gives when it is asked
                times[one.name].append(took)
    medians = {name: statistics.median(each) for name, each in times.items()}
    ours = medians["paddock"]
    print(f"\n{human_bytes(SIZE)} with its check, {line}, {rounds} rounds\n")
    print(f"{'':16}{'median':>9}{'fastest':>10}{'slowest':>10}{'ratio':>8}{'wanted':>9}")
    holds = True
    for one in there:
        each, ratio = times[one.name], medians[one.name] / ours
        # Without a limit, being faster than each of them is all that is wanted.
        wanted = one.wanted if rate or one.name == "paddock" else 1.0
        enough = one.name == "paddock" or ratio >= wanted
        holds &= enough
        shown = "" if one.name == "paddock" else f"{wanted:.1f}{'' if enough else '  falls short'}"
        print(f"{one.name:16}{medians[one.name]:7.2f} s{min(each):8.2f} s{max(each):8.2f} s{ratio:8.2f}      {shown}")
    hashing = _hashing_s(work)
    connections = Settings().connections
    line_s = SIZE / (rate * connections) if rate else 0.0
    floor = max(line_s, hashing)
    print(f"floor {floor:.2f} s: line {line_s:.2f} s over {connections} connections, hashing {hashing:.2f} s; ", end="")
    print(f"paddock takes {ours / floor:.2f} times the floor{', wanted at most 1.6' if rate else ''}")
    return holds and (rate is None or ours <= 1.6 * floor)


def _timed(one: Contestant, out: Path, environment: dict[str, str]) -> float:
    _empty(out)
    took = 0.0
    for command in one.commands(out):
        started = time.monotonic()
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServiceError(f"{one.name} failed: {done.stderr[-1000:]}")
        if command[0] == "openssl" and _digest(out.parent) not in done.stdout:
            raise ServiceError(f"{one.name} left other bytes: {done.stdout}")
        inside = done.stdout.startswith('{"seconds"')
        took += json.loads(done.stdout)["seconds"] if inside else time.monotonic() - started
    if (size := (out / FILE).stat().st_size) != SIZE:
        raise ServiceError(f"{one.name} left {size} bytes, expected {SIZE}")
    return took


def _empty(out: Path) -> None:
    """What the one before wrote is not for this one to write. Its memory is given back last, so that this one gets it:
    a virtual machine may take seconds to find a gigabyte that was free for a while."""
    os.sync()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()


@cache
def _digest(work: Path) -> str:
    """What the one file must have."""
    commit = LocalHub(work / "hub").repository(MODEL).resolve("main")
    assert commit is not None
    return commit.entries[FILE].sha256


def _hashing_s(work: Path) -> float:
    started = time.monotonic()
    subprocess.run(["openssl", "dgst", "-sha256", str(work / "out" / FILE)], check=True, capture_output=True)
    return time.monotonic() - started


def _four_at_once(service: HubService, work: Path, rounds: int) -> bool:
    """Against the same four files one after the other: as many bytes, so that the memory that a virtual machine must
    first be given, and the disk, cost both the same."""
    environment = hub_environment(service, work / "home")
    rates: dict[int, list[float]] = {1: [], 4: []}
    peak = 0
    for number in range(rounds + 1):
        for at_once, each in rates.items():
            _empty(work / "out")
            done = subprocess.run(
                _paddock(FOUR, work / "out", at_once=at_once),
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            told = json.loads(done.stdout)
            peak = max(peak, told["peak_bytes"])
            if number:
                each.append(4 * SIZE / told["seconds"] / 1e6)
    one, four = statistics.median(rates[1]), statistics.median(rates[4])
    print(f"\nfour files of {human_bytes(SIZE)} at once: {four:.0f} MB/s, one after the other {one:.0f} MB/s,", end=" ")
    print(f"{four / one:.2f} times as fast")
    print(f"(wanted {AS_ONE:.1f}{'' if four >= AS_ONE * one else ', falls short'}); ", end="")
    print(f"peak memory {peak / 1e6:.0f} MB, wanted at most {MEMORY_BYTES / 1e6:.0f} MB")
    return peak <= MEMORY_BYTES and four >= AS_ONE * one
