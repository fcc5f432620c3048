"""Onboardings and a refresh on several machines, while workers are killed and servers are killed and restarted.

Every run must end in a true state, and nothing may be fetched twice. Real parts on loopback (`tests.support.machines`):
two API servers behind a round robin, one set of background services, PostgreSQL, Redis, four workers, one volume, one
S3, and a Hub that counts the bytes that it sends.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.automations import create_automations
from infra.local.hub import HubService, Stats
from infra.local.loopback import loopback_client
from infra.local.s3 import S3Server
from paddock.lifecycle.clients import connect
from paddock.model.names import ModelName
from tests.support.machines import SILENCE, Machines, is_ready, kill, processes_of
from tests.support.segmented_model import SEGMENT_BYTES, assert_volume_consistent, segmented_model
from tests.support.tiny_hub import use_hub, use_s3
from tests.support.waiting import wait_for

MODELS = [f"org/machine-{number:02}-GGUF" for number in range(20)]
CATALOG = MODELS[:4]
"""The night's models, which are onboarded at the same time."""
FILE = "larger-F32.gguf"
RUNS_AT_ONCE = 4
RATE = 3 * 1024 * 1024
DOWN_S = 8.0
"""How long a part stays down before it is started again, as by systemd."""
HEADER_BYTES = 1024 * 1024
"""The most that the preflight of a run reads of a file."""
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Runs:
    """All flow runs, and whether those that crashed still had a process when they were first seen so."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._crashed_with_process: dict[str, bool] = {}

    def start(self, deployment: str, **parameters: str) -> str:
        found = self._ask("GET", f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self._ask("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def all(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while page := self._ask("POST", "/flow_runs/filter", {"offset": len(found), "sort": "ID_DESC", "limit": 200}):
            found += [run for run in page if run["state_name"] != "Scheduled" or not run["auto_scheduled"]]
            if len(page) < 200:
                break
        for run in found:
            if run["state_type"] == "CRASHED" and run["id"] not in self._crashed_with_process:
                self._crashed_with_process[run["id"]] = bool(processes_of(self._own_process(run)["id"]))
        return found

    def have_ended(self) -> bool:
        return all(run["state_type"] in FINAL for run in self.all())

    def is_true(self, run: dict[str, Any], history: dict[str, list[str]]) -> bool:
        """Completed: its model is promoted. Crashed: its process was gone. Failed: it says why, and promoted nothing.

        `history` has the operations of each model's promotions; that of a promotion is the id of its run.
        """
        match run["state_type"]:
            case "COMPLETED":
                promotes = run["name"].startswith("onboard ")
                return not promotes or bool(history[run["parameters"]["model"].partition(":")[0]])
            case "CRASHED":
                return not self._crashed_with_process[run["id"]]
            case state:
                done = any(run["id"] in operations for operations in history.values())
                return state == "FAILED" and bool(run["state"]["message"]) and not done

    def _own_process(self, run: dict[str, Any]) -> dict[str, Any]:
        """The run that a worker started a process for: a subflow runs in that of the run above it."""
        while run["deployment_id"] is None:
            above = self._ask("GET", f"/task_runs/{run['parent_task_run_id']}")["flow_run_id"]
            run = self._ask("GET", f"/flow_runs/{above}")
        return run

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        for attempt in range(20):
            try:
                with loopback_client(base_url=self._url, timeout_s=30) as client:
                    response = client.request(method, path, json=body)
                if response.status_code < 500:
                    return response.raise_for_status().json()
            except httpx.TransportError:
                pass
            time.sleep(min(3, 0.2 * 2**attempt))
        raise AssertionError(f"{method} {path} was not answered")


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("seed", "victims"), [(1, ["io-0"]), (2, ["io-1", "gpu-0"]), (3, ["io-0", "io-1"])])
def test_all_runs_end_truly_and_nothing_is_fetched_twice_while_machines_die(
    tmp_path: Path, hub: HubService, s3: S3Server, monkeypatch: pytest.MonkeyPatch, seed: int, victims: list[str]
) -> None:
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"machines-{seed}")
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(json.dumps({"models": [{"model": model} for model in CATALOG]}))
    for name, value in {
        "PADDOCK_CATALOG": str(catalog),
        "PADDOCK_SEGMENT_BYTES": str(SEGMENT_BYTES),
        "PADDOCK_LIMIT_RATE": str(RATE),
    }.items():
        monkeypatch.setenv(name, value)
    needed = 0
    for number, model in enumerate(MODELS):
        content = segmented_model(100 * seed + number)
        needed += len(content)
        hub.repository(model).commit({FILE: content, "config.json": b"{}"})

    clients = connect()
    with Machines(tmp_path / "machines") as machines:
        with temporary_settings({PREFECT_API_URL: machines.url}), get_client(sync_client=True) as client:
            list(create_automations(client, silence=SILENCE))
        with loopback_client(base_url=machines.url) as api:
            limit = {"concurrency_limit": RUNS_AT_ONCE}
            api.patch("/work_pools/paddock-io", json=limit).raise_for_status()
        runs = Runs(machines.url)
        hub.reset_stats()
        began = time.monotonic()
        for model in MODELS:
            runs.start("onboard-model/onboard", model=model)
            if model == CATALOG[1]:  # the night comes while half of its models are being onboarded
                runs.start("refresh-catalog/nightly")
        killed = _spree(machines, hub, needed, victims, random.Random(seed))
        waves = 0
        while True:
            wait_for(runs.have_ended, limit_s=900, every_s=2)
            left = [model for model in MODELS if not clients.volume.promoted(ModelName.parse(model)).revisions]
            if not left or waves == 2:
                break
            waves += 1
            for model in left:
                runs.start("onboard-model/onboard", model=model)
        seconds = time.monotonic() - began
        ended = runs.all()

    names = {model: ModelName.parse(model) for model in MODELS}
    history = {model: [change.operation for change in clients.volume.history(name)] for model, name in names.items()}
    untrue = [run for run in ended if not runs.is_true(run, history)]
    fetched = sum(count for name, count in hub.stats().bytes_sent.items() if name.endswith(FILE))
    preflights = sum(run["name"].startswith(("onboard ", "refresh org/")) for run in ended)
    print(f"\nround {seed}: {', '.join(victims)} killed with {killed} runs; runs were started again {waves} times")
    _print_runs(ended, untrue)
    print(f"  bytes: {needed:,} needed, {fetched:,} fetched, {fetched - needed:+,} by {preflights} preflights")
    print(f"  {seconds:.0f} s")
    assert untrue == []
    assert left == []
    for model in MODELS:
        assert_volume_consistent(clients, names[model])
    # A kill can cost a segment's length ahead of the frontier, and what the sockets held by then.
    assert fetched - needed <= preflights * HEADER_BYTES + killed * 1.5 * SEGMENT_BYTES


def _print_runs(ended: list[dict[str, Any]], untrue: list[dict[str, Any]]) -> None:
    """How many runs of each flow ended in which state, how many of these states are true, and why runs failed."""

    def kind(run: dict[str, Any]) -> tuple[str, str]:
        return run["name"].split()[0], run["state_name"]

    wrong = Counter(map(kind, untrue))
    for (flow, state), count in sorted(Counter(map(kind, ended)).items()):
        print(f"  {flow:12}{state:12}{count:4}, of which true: {count - wrong[flow, state]}")
    for run in ended:
        if run["state_type"] != "COMPLETED" or run in untrue:
            print(f"  {run['name']}: {run['state_name']}: {run['state']['message']}")


def _spree(machines: Machines, hub: HubService, needed: int, victims: list[str], moments: random.Random) -> int:
    """Kill the workers, an API server, and restart PostgreSQL and Redis, in any order, each after a share of the bytes.

    Returns how many processes of runs were killed.
    """
    killed = 0

    def kill_worker(name: str) -> None:
        nonlocal killed
        killed += kill(machines.workers[name])
        time.sleep(DOWN_S)
        machines.start_worker(name)

    def kill_server() -> None:
        number = moments.randrange(2)
        kill(machines.servers[number])
        time.sleep(DOWN_S)
        machines.servers[number].restart()

    harms: list[tuple[str, Callable[[], None]]] = [
        *((f"kill {name}", partial(kill_worker, name)) for name in victims),
        ("kill an API server", kill_server),
        ("restart PostgreSQL", machines.postgres.service.restart),
        ("restart Redis", machines.redis.restart),
    ]
    moments.shuffle(harms)
    for number, (name, harm) in enumerate(harms, 1):
        share = number / (len(harms) + 1)
        hub.wait_until(partial(_has_sent, share * needed), timeout_s=600)
        print(f"  {name} at {share:.0%} of the bytes", flush=True)
        harm()
    wait_for(lambda: all(map(is_ready, machines.ports)), limit_s=120, every_s=0.5)
    return killed


def _has_sent(count: float, stats: Stats) -> bool:
    return stats.total_bytes_sent > count
