"""Measure whole commands of a small model, each in a process of its own: from its start to its end.

    pull      from a local Hub of a model of 1 MB, onto an empty volume, with the header's audit, the plan and the
              promotion; beside programs that fetch the same file and compare its digest, as in `tests.bench.transfer`
    from S3   the same pull, where a fleet's bucket has the file; and `restore`, which asks no Hub
    plan, inspect, ls, refresh    of that model; a refresh with nothing to do
    typer     `python -c 'import typer'`, the least that a command line of this kind costs

The commands alternate, since the machine is shared. Of each, the median of the wall-clock seconds and of the processor
seconds is printed, those of the processes that it waited for included.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.s3 import S3Server
from infra.local.service import ServiceError
from tests.bench.transfer import other_programs
from tests.support.hub import hub_environment
from tests.support.tiny_hub import CARD, CONFIG, tiny_model

ROOT = Path(__file__).parents[2]
MODEL, FILE = "bench/small-GGUF", "small-Q8_0.gguf"
SIZE_BYTES = 1_000_000
MAX_LS_TO_TYPER = 1.6
"""The processor time of `ls` to that of `import typer`."""


@dataclass(frozen=True)
class Measured:
    """A sequence of commands. `before` runs uncounted before each run."""

    lines: list[list[str]]
    environment: dict[str, str]
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Seconds:
    wall: float
    processor: float


def run(rounds: int) -> bool:
    """Print the table, and return whether the bound is met."""
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        try:
            with (
                serve_hub(LocalHub(Path(work, "hub"))) as service,
                S3Server.start(Path(work, "s3")) as server,
            ):
                service.repository(MODEL).commit({"README.md": CARD, "config.json": CONFIG, FILE: _model()})
                return _compare(_commands(service, server, Path(work)), rounds)
        except ServiceError as error:
            print(error)
            return False


def _model() -> bytes:
    layers = 1
    while len(content := tiny_model(layers)) < SIZE_BYTES:
        layers += 1
    return content


def _commands(service: HubService, server: S3Server, work: Path) -> dict[str, Measured]:
    """The commands by name, after the volume and the bucket are filled."""
    alone = {name: value for name, value in hub_environment(service, work / "home").items() if "PADDOCK_" not in name}
    alone |= {"PADDOCK_VOLUME": str(work / "volume"), "XDG_CACHE_HOME": str(work / "cache")}
    filled = alone | {"PADDOCK_VOLUME": str(work / "filled"), "PADDOCK_CATALOG": str(work / "catalog.yaml")}
    filled |= {"PADDOCK_BENCHMARK_BUDGET_S": "0"}
    fleet = alone | server.environment | {"PADDOCK_S3_URI": f"s3://{server.bucket}/bench"}
    (work / "catalog.yaml").write_text(f"models:\n  - model: {MODEL}\n    default: true\n")
    (work / FILE).write_bytes(_model())
    for environment in (filled, fleet):
        run_command(paddock_command("pull", MODEL), environment)
    run_command(paddock_command("cache", MODEL), fleet)
    run_command(paddock_command("refresh"), filled)  # what was not measured yet is measured once

    empty, out = partial(empty_directory, work / "volume"), work / "out"
    measured = {
        "typer": Measured([[sys.executable, "-c", "import typer"]], alone),
        "ls": Measured([paddock_command("ls")], filled),
        "inspect": Measured([paddock_command("inspect", str(work / FILE))], filled),
        "plan": Measured([paddock_command("plan", str(work / FILE))], filled),
        "refresh": Measured([paddock_command("refresh")], filled),
        "pull": Measured([paddock_command("pull", MODEL)], alone, empty),
        "pull from S3": Measured([paddock_command("pull", MODEL)], fleet, empty),
        "restore": Measured([paddock_command("restore", MODEL)], fleet, empty),
    }
    for other in other_programs(service.address, MODEL, FILE):
        if other.needs is None or shutil.which(other.needs):
            measured[other.name] = Measured(other.commands(out), alone, partial(empty_directory, out))
    return measured


def paddock_command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("paddock")), *arguments]


def _compare(commands: dict[str, Measured], rounds: int) -> bool:
    times = time_in_turn(commands, rounds)
    print(f"\nwhole commands, a model of {SIZE_BYTES / 1e6:g} MB, medians of {rounds}\n")
    print(f"{'':16}{'wall':>9}{'fastest':>10}{'processor':>12}{'to typer':>11}")
    processor = {name: statistics.median(one.processor for one in measured) for name, measured in times.items()}
    for name, measured in times.items():
        wall = statistics.median(one.wall for one in measured)
        print(
            f"{name:16}{wall:7.2f} s{min(one.wall for one in measured):8.2f} s{processor[name]:10.2f} s"
            f"{processor[name] / processor['typer']:11.2f}"
        )
    ratio = processor["ls"] / processor["typer"]
    holds = ratio <= MAX_LS_TO_TYPER
    print(f"ls takes {ratio:.2f} times the processor time of typer's import (bound: {MAX_LS_TO_TYPER:g})", end="")
    print("" if holds else ": missed")
    return holds


def time_in_turn(commands: dict[str, Measured], rounds: int) -> dict[str, list[Seconds]]:
    """The seconds of each command in each round. The commands alternate; a first round more is a warm-up."""
    times: dict[str, list[Seconds]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds = _time(command)
            if number:  # the first round is a warm-up
                times[name].append(seconds)
    return times


def _time(command: Measured) -> Seconds:
    command.before()
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    for line in command.lines:
        run_command(line, command.environment)
    wall, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime)


def run_command(line: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceError(f"{' '.join(line[:4])} failed: {done.stderr[-1000:]}")


def empty_directory(directory: Path) -> None:
    """Empty a directory, and flush what the previous program wrote, so that it does not slow the next one."""
    os.sync()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
