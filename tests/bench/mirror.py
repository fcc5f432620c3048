"""Measure `paddock pull` beside `hf download` through a mirror that takes long to answer each request.

Both are whole programs that fetch the same weights, in alternation. A pull also reads the header, plans, fetches the
configuration, audits and promotes.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infra.local.demo import MODEL, create_demo_repositories
from infra.local.hub import LocalHub, serve_hub
from tests.support.hub import hub_environment
from tests.support.mirror import Mirror, mirror_of

DELAY_S = 0.4
MAX_RATIO = 3.0
ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
_QUANTIZATION = "Q8_0"


def run(rounds: int) -> bool:
    """Print each time, the requests of a pull and the ratio, and return whether the bound is met."""
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        hub = LocalHub(Path(work, "hub"))
        create_demo_repositories(hub, cache=ROOT / ".cache" / "demo")
        with serve_hub(hub) as service, mirror_of(service.address, delay_s=DELAY_S) as mirror:
            environment = hub_environment(service, Path(work, "home"))
            environment |= {"HF_ENDPOINT": mirror.address, "PADDOCK_VOLUME": f"{work}/volume"}
            file = f"{MODEL.rpartition('/')[2].removesuffix('-GGUF')}-{_QUANTIZATION}.gguf"
            commands = {
                "hf download": [str(_BIN / "hf"), "download", MODEL, file, "--local-dir", f"{work}/hf"],
                "paddock pull": [sys.executable, "-m", "paddock", "pull", MODEL, "--quant", _QUANTIZATION],
            }
            times: dict[str, list[float]] = {name: [] for name in commands}
            print(f"\nthrough a mirror that takes {DELAY_S:g} s for each request\n")
            for _ in range(rounds):
                for name, command in commands.items():
                    times[name].append(_time(command, environment, Path(work), mirror))
                    print(f"{name:14}{times[name][-1]:7.2f} s  {len(mirror.requests)} requests")
            for request in sorted(mirror.requests, key=lambda request: request.at_s):
                print(request)
    theirs, ours = (statistics.median(measured) for measured in times.values())
    print(f"median: hf {theirs:.2f} s, paddock {ours:.2f} s, {ours / theirs:.2f} times as long (bound: {MAX_RATIO:g})")
    return ours <= MAX_RATIO * theirs


def _time(command: list[str], environment: dict[str, str], work: Path, mirror: Mirror) -> float:
    for name in ("hf", "volume", "home"):
        shutil.rmtree(work / name, ignore_errors=True)
    mirror.reset()
    started = time.monotonic()
    subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True)
    return time.monotonic() - started
