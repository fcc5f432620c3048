"""Measure verified downloads against other download programs: time, and memory of parallel downloads.

Each program is timed from its start to a file whose bytes were compared with the Hub's digest:

    paddock        Paddock's own backend, with its requests to the Hub; verification is included
    hf             the commands `hf download`, then `hf cache verify`
    hf_transfer    hf_transfer with 8 parallel chunks of 10 MiB, then the command `openssl dgst -sha256`
    hf_transfer-64 the same with 64 parallel chunks
    aria2c         the command `aria2c -x16`, then `openssl dgst -sha256`

Paddock and hf_transfer are timed within their process, since a worker's interpreter is already running. Paddock's file
is on disk at the end (fsync); those of the others may still be in memory.

The programs alternate, since the machine is shared, and medians are compared. The *floor* is a lower bound for any
program: the larger of the line time (the file over as many connections as Paddock opens, each at the rate limit) and
the hashing time. nginx serves the bytes; its limit applies to each response, and does not limit the first second's
worth: so 64 chunks of 10 MiB are not limited at all, and the bound for them is only that Paddock is faster.
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
MAX_MEMORY_BYTES = 300_000_000
MIN_PARALLEL_SPEEDUP = 1.0
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Contestant:
    """A download program: its `commands` for an empty directory, and the least ratio of its time to Paddock's."""

    name: str
    needs: str | None
    commands: Callable[[Path], list[list[str]]]
    bound: float


def run(rounds: int) -> bool:
    """Print the tables, and return whether every bound is met."""
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        hub = LocalHub(Path(work, "hub"))
        try:
            _commit_files(hub)
            with serving(hub, Path(work, "limited"), RATE) as service:
                held = [_compare(service, Path(work), rounds, f"{RATE // 10**6} MB/s for each connection", RATE)]
            with serving(hub, Path(work, "free"), 0) as service:
                held += [
                    _compare(service, Path(work), rounds, "no limit", None),
                    _four_in_parallel(service, Path(work), rounds),
                ]
        except ServiceError as error:
            print(error)
            return False
    return all(held)


def _commit_files(hub: LocalHub) -> None:
    """Commit four different files of incompressible bytes."""
    block = os.urandom(SIZE // 10)
    source = hub.root.with_name("source")
    for number in range(4):
        with source.open("wb") as file:
            for part in range(10):
                file.write(bytes([number, part]) + block[2:])
        hub.repository(FOUR).commit({f"{number}.gguf": source})
        if number == 0:
            hub.repository(MODEL).commit({FILE: source})
        source.unlink()


@contextmanager
def serving(hub: LocalHub, state: Path, rate: int) -> Iterator[HubService]:
    """Serve a Hub whose bytes nginx sends, at most `rate` bytes per second for each connection; 0: without a limit."""
    with ExitStack() as stack:
        nginx = stack.enter_context(Nginx.start(state, hub.root, rate_bytes_per_s=rate))
        yield stack.enter_context(serve_hub(hub, bytes_address=nginx.address))


def other_programs(address: str, model: str, file: str) -> list[Contestant]:
    """The other programs that fetch a file of a model from the Hub at `address`, and compare its digest."""
    url = f"{address}/{model}/resolve/main/{file}"

    def hashed(directory: Path) -> list[str]:
        return ["openssl", "dgst", "-sha256", str(directory / file)]

    # huggingface_hub used chunks of 10 MiB as well.
    hf_transfer = (
        "import hf_transfer, json, sys, time; started = time.monotonic();"
        "hf_transfer.download(sys.argv[1], sys.argv[2], int(sys.argv[3]), 10485760, headers={});"
        "print(json.dumps({'seconds': time.monotonic() - started}))"
    )

    def hf_transfer_commands(directory: Path, *, files: int) -> list[list[str]]:
        return [[sys.executable, "-c", hf_transfer, url, str(directory / file), str(files)], hashed(directory)]

    aria2c = ["aria2c", "--quiet", "-x16", "-s16", "--file-allocation=falloc", "--no-conf"]
    return [
        Contestant(
            "hf",
            None,
            lambda directory: [
                [str(_BIN / "hf"), "download", model, file, "--local-dir", str(directory)],
                [str(_BIN / "hf"), "cache", "verify", model, "--local-dir", str(directory)],
            ],
            14.0,
        ),
        *(
            Contestant(name, "openssl", partial(hf_transfer_commands, files=files), bound)
            for name, files, bound in (("hf_transfer", 8, 2.0), ("hf_transfer-64", 64, 1.0))
        ),
        Contestant(
            "aria2c",
            "aria2c",
            lambda directory: [[*aria2c, "-d", str(directory), "-o", file, url], hashed(directory)],
            1.6,
        ),
    ]


def _paddock(model: str, directory: Path, *, parallel: int) -> list[str]:
    return [sys.executable, "-m", "tests.bench.fetch_all", model, str(directory), str(parallel)]


def _compare(service: HubService, work: Path, rounds: int, line: str, rate: int | None) -> bool:
    ours = Contestant("paddock", None, lambda directory: [_paddock(MODEL, directory, parallel=1)], 1.0)
    others = other_programs(service.address, MODEL, FILE)
    contestants = [ours, *(each for each in others if each.needs is None or shutil.which(each.needs))]
    environment = hub_environment(service, work / "home")
    times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        for contestant in contestants:
            seconds = _time(contestant, work / "out", environment)
            if number:  # the first round is a warm-up of caches, and of memory that the host first has to provide
                times[contestant.name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    paddock_s = medians["paddock"]
    print(f"\n{human_bytes(SIZE)} verified, {line}, {rounds} rounds\n")
    print(f"{'':16}{'median':>9}{'fastest':>10}{'slowest':>10}{'ratio':>8}{'bound':>9}")
    holds = True
    for contestant in contestants:
        measured, ratio = times[contestant.name], medians[contestant.name] / paddock_s
        # Without a rate limit, Paddock only has to be faster.
        bound = contestant.bound if rate or contestant.name == "paddock" else 1.0
        is_met = contestant.name == "paddock" or ratio >= bound
        holds &= is_met
        bound_text = "" if contestant.name == "paddock" else f"{bound:.1f}{'' if is_met else '  missed'}"
        print(
            f"{contestant.name:16}{medians[contestant.name]:7.2f} s{min(measured):8.2f} s{max(measured):8.2f} s"
            f"{ratio:8.2f}      {bound_text}"
        )
    hashing = _hashing_s(work)
    connections = Settings().connections
    line_s = SIZE / (rate * connections) if rate else 0.0
    floor = max(line_s, hashing)
    print(f"floor {floor:.2f} s: line {line_s:.2f} s over {connections} connections, hashing {hashing:.2f} s; ", end="")
    print(f"paddock takes {paddock_s / floor:.2f} times the floor{' (bound: 1.6)' if rate else ''}")
    return holds and (rate is None or paddock_s <= 1.6 * floor)


def _time(contestant: Contestant, out: Path, environment: dict[str, str]) -> float:
    _empty(out)
    seconds = 0.0
    for command in contestant.commands(out):
        started = time.monotonic()
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServiceError(f"{contestant.name} failed: {done.stderr[-1000:]}")
        if command[0] == "openssl" and _digest(out.parent) not in done.stdout:
            raise ServiceError(f"{contestant.name} wrote wrong bytes: {done.stdout}")
        prints_time = done.stdout.startswith('{"seconds"')
        seconds += json.loads(done.stdout)["seconds"] if prints_time else time.monotonic() - started
    if (size := (out / FILE).stat().st_size) != SIZE:
        raise ServiceError(f"{contestant.name} wrote {size} bytes, expected {SIZE}")
    return seconds


def _empty(out: Path) -> None:
    """Empty the directory, and flush the previous program's writes, so that they do not slow the next one.

    Its memory is freed last, so that the next program gets it: a virtual machine may take seconds to provide a gigabyte
    that was free for a while.
    """
    os.sync()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()


@cache
def _digest(work: Path) -> str:
    """The sha256 of the file in `MODEL`."""
    commit = LocalHub(work / "hub").repository(MODEL).resolve("main")
    assert commit is not None
    return commit.entries[FILE].sha256


def _hashing_s(work: Path) -> float:
    started = time.monotonic()
    subprocess.run(["openssl", "dgst", "-sha256", str(work / "out" / FILE)], check=True, capture_output=True)
    return time.monotonic() - started


def _four_in_parallel(service: HubService, work: Path, rounds: int) -> bool:
    """Compare four parallel downloads with the same four in sequence.

    Both transfer as many bytes, so that the disk, and the memory that a virtual machine first has to provide, cost both
    the same.
    """
    environment = hub_environment(service, work / "home")
    rates: dict[int, list[float]] = {1: [], 4: []}
    peak = 0
    for number in range(rounds + 1):
        for parallel, measured in rates.items():
            _empty(work / "out")
            done = subprocess.run(
                _paddock(FOUR, work / "out", parallel=parallel),
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            output = json.loads(done.stdout)
            peak = max(peak, output["peak_bytes"])
            if number:
                measured.append(4 * SIZE / output["seconds"] / 1e6)
    sequential, together = statistics.median(rates[1]), statistics.median(rates[4])
    print(
        f"\nfour files of {human_bytes(SIZE)} in parallel: {together:.0f} MB/s, in sequence {sequential:.0f} MB/s,",
        end=" ",
    )
    print(f"{together / sequential:.2f} times as fast")
    print(
        f"(bound: {MIN_PARALLEL_SPEEDUP:.1f}{'' if together >= MIN_PARALLEL_SPEEDUP * sequential else ', missed'}); ",
        end="",
    )
    print(f"peak memory {peak / 1e6:.0f} MB, bound: {MAX_MEMORY_BYTES / 1e6:.0f} MB")
    return peak <= MAX_MEMORY_BYTES and together >= MIN_PARALLEL_SPEEDUP * sequential
