"""Measure what Prefect adds to the onboarding of the real model, against the same calls of the library.

    plain     `paddock.lifecycle` alone, in a process of its own
    prefect   the flow `onboard-model` in such a process, recorded by a Prefect server that runs already

Both fetch the model from the local Hub onto an empty volume, validate, benchmark and promote it. They alternate, since
the machine is shared, and medians are compared. Prefect's part is the time in which no step of the library runs
(`between`): a benchmark alone varies by more than that. The start of the interpreter with its imports, and the exit of
the process, have columns of their own: a worker pays them once for a run of any flow. The server shares the cores with
its client.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from infra.local.demo import MODEL, create_demo_repositories
from infra.local.hub import LocalHub, serve_hub
from infra.local.prefect_server import PrefectServer
from tests.support.hub import hub_environment

MAX_SHARE = 0.10
MAX_SECONDS = 3.0
"""Prefect may add a tenth of an onboarding's time, or so many seconds, whichever is more."""
ROOT = Path(__file__).parents[2]
_QUANTIZATION = "Q8_0"


@dataclass(frozen=True)
class Times:
    """Seconds of one process: until its modules are imported, of the onboarding, of that between the library's steps,
    and from the end of the onboarding to that of the process."""

    start: float
    onboarding: float
    between: float
    exit: float


def run(rounds: int) -> bool:
    """Print the table, and return whether the bound is met."""
    times: dict[str, list[Times]] = {"plain": [], "prefect": []}
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        hub = LocalHub(Path(work, "hub"))
        create_demo_repositories(hub, cache=ROOT / ".cache" / "demo")
        with serve_hub(hub) as service, PrefectServer.start(Path(work, "prefect")) as server:
            environment = hub_environment(service, Path(work, "home")) | server.environment
            environment |= {"PADDOCK_VOLUME": f"{work}/volume", "PADDOCK_BENCHMARK_BUDGET_S": "0"}
            for _ in range(rounds):
                for client, measured in times.items():
                    for name in ("home", "volume"):
                        shutil.rmtree(Path(work, name), ignore_errors=True)
                    measured.append(_onboard(client, environment))
    medians = {client: Times(*map(median, zip(*map(astuple, each), strict=True))) for client, each in times.items()}
    print(f"\nonboarding of the real model, medians of {rounds} rounds\n")
    print(f"{'':10}{'start':>10}{'onboarding':>12}{'between':>10}{'exit':>10}")
    for client, one in medians.items():
        print(f"{client:10}{one.start:8.2f} s{one.onboarding:10.2f} s{one.between:8.2f} s{one.exit:8.2f} s")
    plain, prefect = medians["plain"], medians["prefect"]
    added_s, bound_s = prefect.between - plain.between, max(MAX_SHARE * plain.onboarding, MAX_SECONDS)
    holds = added_s <= bound_s
    print(
        f"Prefect adds {added_s:.2f} s to {plain.onboarding:.2f} s, {added_s / plain.onboarding:.0%}"
        f" (bound: {bound_s:.2f} s){'' if holds else ': missed'}"
    )
    return holds


def _onboard(client: str, environment: dict[str, str]) -> Times:
    command = [sys.executable, "-m", "tests.bench.onboard_one", client, MODEL, _QUANTIZATION]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    ended = time.monotonic()
    if done.returncode != 0:
        raise RuntimeError(f"the onboarding failed: {done.stderr[-2000:]}")
    output = json.loads(done.stdout.splitlines()[-1])
    seconds = output["ended"] - output["began"]
    times = Times(output["began"] - started, seconds, seconds - output["in_steps"], ended - output["ended"])
    print(f"{client:10}{times.onboarding:8.2f} s, {times.between:.2f} s of it between steps")
    return times
