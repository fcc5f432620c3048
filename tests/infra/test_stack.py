"""The local stack through its command line: up, status, env, down, and after a kill of its supervisor."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.bootstrap import GPU_POOL, POOLS
from infra.local import supervisor
from infra.local.demo import MODEL
from infra.local.s3 import S3Server
from infra.local.service import ServiceError
from infra.local.stack import Stack
from infra.local.state import CHECKOUT
from infra.local.temporary import make_temporary_directory, remove_temporary_directory
from tests.support.tiny_demo import fill_demo_cache
from tests.support.waiting import wait_for

ONBOARD = "onboard-model/onboard"
"""The deployment that the command printed by `up` runs."""


def command(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "infra.local", "--state", str(state), *arguments]
    return subprocess.run(line, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=170)


def tree_of(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory whose Hub has tiny models, under the names of the demonstration's."""
    monkeypatch.setenv("PADDOCK_THREADS", "1")  # other tests have the cores too
    monkeypatch.setenv("PADDOCK_BENCHMARK_BUDGET_S", "0")
    fill_demo_cache(tmp_path)
    yield tmp_path
    supervisor.stop(tmp_path)


def test_down_status_and_env_report_that_nothing_is_running(tmp_path: Path) -> None:
    down = command(tmp_path, "down")
    assert (down.returncode, down.stdout) == (0, "Nothing is running\n")
    assert command(tmp_path, "status").stdout == "Nothing is running\n"
    env = command(tmp_path, "env")
    assert (env.returncode, env.stdout) == (1, "")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("deployment", ["acquire-model/acquire", pytest.param(ONBOARD, marks=pytest.mark.torture)])
def test_the_stack_starts_once_runs_deployments_and_stops_completely(state: Path, deployment: str) -> None:
    """The command that `up` prints is run as it is, or with an onboarding's first phase, which imports the least."""
    first = command(state, "up")
    assert first.returncode == 0, first.stdout + first.stderr
    stack = supervisor.running(state)
    assert stack is not None
    assert (state / "stack.json").stat().st_mode & 0o777 == 0o600
    api = stack.environment["PREFECT_API_URL"]
    assert {name for name in stack.services if "worker" in name} == {f"the worker of {pool}" for pool in POOLS}

    again = command(state, "up")
    assert again.returncode == 0
    assert again.stdout.startswith("The stack is already running.\n")
    assert stack == supervisor.running(state)
    assert stack.environment["HF_ENDPOINT"] in command(state, "status").stdout

    shell = "\n".join(
        ["set -eu", "HF_TOKEN=secret", command(state, "env").stdout, "echo ${HF_TOKEN-unset} $HF_ENDPOINT"]
    )
    output = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["unset", stack.environment["HF_ENDPOINT"]]

    if deployment == ONBOARD:
        _check_waiting_run(api, lambda: _check_healing(state, list(stack.services)))
    else:
        _check_healing(state, ["the Data Docs"])

    line = _printed_command(first.stdout)
    assert line.count(ONBOARD) == 1
    program = shlex.split(line)[1]
    assert (CHECKOUT / program).exists()
    assert _run_shell(line.replace(ONBOARD, deployment)) == 0
    if deployment == ONBOARD:
        _check_onboarding(api)
    else:
        (acquired,) = _runs(api, "acquire paddock-demo")
        assert acquired["state_type"] == "COMPLETED"
        assert _artifacts(api).keys() == {"preflight", "findings", "files", "download"}
    _check_refusal(api)
    _check_stop(state, stack.pid)


# Its parts: test_s3.py, test_prefect_server.py, test_subreaper.py, and the failure in tests/flows/test_onboard.py.
@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_the_stack_restarts_after_a_kill_with_what_it_had_and_reports_a_failed_run(state: Path) -> None:
    assert command(state, "up").returncode == 0
    stack = supervisor.running(state)
    assert stack is not None
    api = stack.environment["PREFECT_API_URL"]
    httpx.post(f"{api}/flows/", json={"name": "of-the-first-run"}, trust_env=False)
    deployments = _deployments(api)
    _patch(f"{api}/work_pools/{GPU_POOL}", {"concurrency_limit": 2})  # an operator's own

    tree = tree_of(stack.pid)
    assert len(tree) > 10
    os.kill(stack.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(tree, timeout=30)
    assert left == []

    second = command(state, "up")
    assert second.returncode == 0, second.stdout + second.stderr
    stack = supervisor.running(state)
    assert stack is not None
    api = stack.environment["PREFECT_API_URL"]
    assert "of-the-first-run" in httpx.post(f"{api}/flows/filter", json={}).text
    assert _deployments(api) == deployments
    assert httpx.get(f"{api}/work_pools/{GPU_POOL}", trust_env=False).json()["concurrency_limit"] == 2
    _check_failure(_printed_command(second.stdout), api)
    _check_stop(state, stack.pid)


def _printed_command(output: str) -> str:
    """The command that `up` prints, to onboard a model."""
    (line,) = re.findall(r"^PREFECT_API_URL=.* onboard-model/onboard .*$", output, re.MULTILINE)
    return str(line)


def _check_stop(state: Path, pid: int) -> None:
    tree = tree_of(pid)
    down = command(state, "down")
    assert (down.returncode, down.stdout) == (0, "Stopped\n")
    # The supervisor is the child of a command that has ended: init may take its time to collect it.
    assert [process for process in tree if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    assert command(state, "down").stdout == "Nothing is running\n"


def _check_waiting_run(api: str, harm: Callable[[], None]) -> None:
    """An onboarding that waits for its worker while all parts are harmed is done afterwards."""
    deployment = httpx.get(f"{api}/deployments/name/{ONBOARD}", trust_env=False).raise_for_status().json()
    _patch(f"{api}/work_pools/paddock-io", {"is_paused": True})
    run = _ask(f"{api}/deployments/{deployment['id']}/create_flow_run", {"parameters": {"model": MODEL}})
    harm()
    _patch(f"{api}/work_pools/paddock-io", {"is_paused": False})
    states = list[str]()

    def has_ended() -> bool:
        found = httpx.get(f"{api}/flow_runs/{run['id']}", trust_env=False).raise_for_status().json()
        states.append(found["state_type"])
        return states[-1] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

    wait_for(has_ended, limit_s=300, every_s=1)
    assert states[-1] == "COMPLETED"


def _patch(url: str, body: dict[str, Any]) -> None:
    httpx.patch(url, json=body, trust_env=False).raise_for_status()


def _check_healing(state: Path, names: list[str]) -> None:
    """Each part that is killed is back at the same address within half a minute."""
    for name in names:
        stack = supervisor.running(state)
        assert stack is not None
        (program,) = psutil.Process(stack.services[name]).children()
        began = time.monotonic()
        program.kill()
        line = f"{name} is back after "
        wait_for(lambda line=line: line in supervisor.log_path(state).read_text(), limit_s=90)  # type: ignore[misc]
        print(f"{name}: back after {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 30
        healed = supervisor.running(state)
        assert healed is not None
        assert healed.environment == stack.environment
        assert healed.restarts == {**stack.restarts, name: 1}
    assert f"{names[0]}: running, started again 1x" in command(state, "status").stdout


def _check_onboarding(api: str) -> None:
    """The run of the command that `up` prints, its artifacts, and the Data Docs that they link."""
    assert {run["state_type"] for run in _runs(api, "onboard paddock-demo")} == {"COMPLETED"}
    artifacts = _artifacts(api)
    judged = {"findings", "chat", "expectations", "memory"}
    assert artifacts.keys() == {"preflight", "files", "download", *judged, "copy", "benchmark", "promotion", "dossier"}

    (docs,) = re.findall(r"\]\((http://127\.0\.0\.1:\S+)\)", artifacts["expectations"])
    page = httpx.get(docs, trust_env=False)
    assert page.is_success
    assert "paddock-demo/SmolLM2-135M-Instruct-GGUF" in page.text


def _artifacts(api: str) -> dict[str, Any]:
    """The data of the newest artifact of each kind."""
    return {row["key"].split("-")[0]: row["data"] for row in _ask(f"{api}/artifacts/latest/filter", {})}


def _check_refusal(api: str) -> None:
    """A model that the flow's parameters refuse starts no run. The request is the one that `prefect deployment run`
    sends; starting that takes 5 s of CPU time."""
    deployment = httpx.get(f"{api}/deployments/name/{ONBOARD}", trust_env=False).raise_for_status().json()
    body, before = {"parameters": {"model": "../etc"}}, len(_runs(api, ""))
    refused = httpx.post(f"{api}/deployments/{deployment['id']}/create_flow_run", json=body, trust_env=False)
    assert refused.status_code == 409
    assert "model" in refused.json()["detail"]
    assert len(_runs(api, "")) == before


def _check_failure(line: str, api: str) -> None:
    """Run the command that `up` prints with a model that does not exist."""
    assert _run_shell(re.sub(r"model=\S+", "model=nobody/nothing", line)) == 1
    (failed,) = _runs(api, "onboard nobody")
    assert failed["state_type"] == "FAILED"
    assert re.search(
        r"ModelNotFound: nobody/nothing is not on \S+, or is private: check the name", failed["state"]["message"]
    )
    assert failed["run_count"] == 1


def _run_shell(text: str) -> int:
    done = subprocess.run(["sh", "-c", text], cwd=CHECKOUT, capture_output=True, check=False, timeout=600)
    return done.returncode


def _runs(api: str, name: str) -> list[dict[str, Any]]:
    """The flow runs whose names hold this text."""
    found: list[dict[str, Any]] = _ask(f"{api}/flow_runs/filter", {"flow_runs": {"name": {"like_": name}}})
    return found


def _deployments(api: str) -> list[dict[str, Any]]:
    """The stored fields of each deployment and of its schedules, without the fields that a worker's poll or an update
    changes."""
    found: list[dict[str, Any]] = _ask(f"{api}/deployments/filter", {})
    return [{**_lasting(row), "schedules": [_lasting(schedule) for schedule in row["schedules"]]} for row in found]


def _lasting(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in {"updated", "last_polled", "status"}}


def _ask(url: str, body: dict[str, Any]) -> Any:
    return httpx.post(url, json=body, trust_env=False).raise_for_status().json()


def test_of_two_simultaneous_starts_one_gets_the_lock(tmp_path: Path) -> None:
    lock = supervisor.acquire(tmp_path)
    assert lock is not None
    assert supervisor.acquire(tmp_path) is None
    assert supervisor.owner(tmp_path) == os.getpid()
    os.close(lock)
    assert supervisor.owner(tmp_path) is None


def test_a_stack_of_one_part_sets_the_variables_of_that_part_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-the-user")
    with Stack(tmp_path, parts=["s3"]) as stack:
        assert stack.s3 is not None
        assert stack.environment["PADDOCK_S3_URI"] == "s3://models/paddock"
        assert stack.environment["AWS_ENDPOINT_URL"] == stack.s3.endpoint
        assert not {"HF_ENDPOINT", "HF_TOKEN", "PREFECT_API_URL"} & set(stack.environment)
        services = stack.services
    assert [service.poll() is None for service in services] == [False]


def test_what_a_killed_stack_left_in_its_temporary_directory_is_removed_by_the_next(tmp_path: Path) -> None:
    left = make_temporary_directory(tmp_path)
    assert left.stat().st_mode & 0o777 == 0o711  # the engine's own user passes, and nobody lists it
    (left / "prefect-workspace-attempt-1").mkdir()
    (left / "prefect-workspace-attempt-1" / "workspace.json").write_text("{}")
    own = make_temporary_directory(tmp_path)
    assert (left.exists(), own.exists()) == (False, True)
    remove_temporary_directory(tmp_path)
    remove_temporary_directory(tmp_path)
    assert not own.exists()
    assert list(tmp_path.iterdir()) == []


def test_when_one_part_fails_to_start_the_others_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "repositories").write_text("in the way of the directory")
    stack = Stack(tmp_path, parts=["hub", "s3"])
    with pytest.raises((ServiceError, FileExistsError)), stack:
        pass
    assert stack.services == []
    with S3Server.start(tmp_path / "s3"):  # no service holds its log any more
        pass
