"""`paddock onboard`: the flow in this process, with the command line's own manners."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import TypeAdapter

from flows.onboard import onboard_model
from flows.parameters import Target
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from paddock.errors import OrchestratorUnavailable
from paddock.lifecycle.clients import Clients
from paddock.model.units import parse_bytes
from tests.flows.test_onboard import CUT, roomy
from tests.support.house import NAME, tiny
from tests.support.one_answer import answering


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "paddock", "onboard", *arguments]
    return subprocess.run(
        line, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=170
    )


@pytest.fixture
def recorded(prefect_server: PrefectServer) -> dict[str, str]:
    return prefect_server.environment


def test_it_prints_one_object_with_what_scripts_need(
    clients: Clients, hub: HubService, recorded: dict[str, str], tmp_path: Path
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})
    done = command(NAME, "--json", **recorded)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["state"], said["quantization"], said["promoted"]) == ("Completed", "Q8_0", True)
    assert said["variant"] == Path(said["path"]).resolve().name == "Q8_0"
    assert said["revision"] == Path(said["path"]).resolve().parent.name
    assert said["notes"] == [CUT]
    assert Path(said["dossier"]).read_text().startswith(f"# {NAME}")


def test_without_a_prefect_server_it_runs_on_a_temporary_one_and_leaves_none(
    clients: Clients, hub: HubService, tmp_path: Path
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})
    home = tmp_path / "prefect"
    environment = os.environ | {
        "PREFECT_API_URL": "",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    out, err = tmp_path / "out", tmp_path / "err"
    line = [sys.executable, "-m", "paddock", "onboard", NAME]
    with (
        out.open("w") as stdout,
        subprocess.Popen(line, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True) as running,
    ):
        assert running.stderr is not None
        with err.open("w") as told:
            for said in running.stderr:
                told.write(said)
                if "Beginning flow run" in said:  # which the server has recorded
                    break
            servers = _servers_of(home)
            told.write(running.stderr.read())
    assert running.returncode == 0, err.read_text()
    assert len(servers) == 1
    gone, alive = psutil.wait_procs(servers, timeout=10)
    assert (len(gone), alive, _servers_of(home)) == (1, [], [])
    assert out.read_text().rstrip().endswith(f": promoted; {CUT}")
    assert "## Benchmark" in out.read_text()


def _servers_of(home: Path) -> list[psutil.Process]:
    """Prefect's servers that keep their records there: nothing but their environment says so."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.environ().get("PREFECT_HOME") == str(home) and "uvicorn" in process.cmdline():
                found.append(process)
    return found


BAD = {
    "unknown repository": (["nobody/nothing"], 1, "model-not-found"),
    "gated repository": (["org/gated"], 1, "model-gated"),
    "no GGUF in it": (["org/weights"], 2, "no-gguf"),
    "too small a target": ([NAME, "--target", "1KiB"], 2, "does-not-fit"),
    "unsafe name": (["../../etc"], 3, "unsafe-name"),
    "not a target": ([NAME, "--target", "much"], 3, "bad-setting"),
    "a variant and another quantization": ([f"{NAME}:Q8_0", "--quant", "Q4_K_M"], 3, "bad-setting"),
    "two variants": ([f"{NAME}:Q8_0:Q4_K_M"], 3, "unsafe-name"),
    "an empty quantization": ([NAME, "--quant", ""], 3, "bad-setting"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_its_exit_status(
    clients: Clients, hub: HubService, recorded: dict[str, str], case: str
) -> None:
    hub.repository("org/gated", gated=True).commit({"tiny-Q8_0.gguf": tiny()})
    hub.repository("org/weights").commit({"model.safetensors": b"x" * 64, "config.json": b"{}"})
    arguments, status, error = BAD[case]
    with_password = recorded["PREFECT_API_URL"].replace("//", "//user:hunter2@")
    done = command(*arguments, "--json", **(recorded | {"PREFECT_API_URL": with_password}))
    assert (done.returncode, json.loads(done.stdout)["error"]) == (status, error), done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("target", ["this-machine", "24gib", "24 GB", "1.5G", "2p", "8589934592"])
def test_a_target_is_written_as_any_size_is(target: str) -> None:
    assert TypeAdapter(Target).validate_python(target) == target
    if target != "this-machine":
        assert parse_bytes(target) > 0


def test_a_prefect_server_that_is_not_there_is_named_without_its_password(clients: Clients) -> None:
    done = command(NAME, "--json", PREFECT_API_URL="http://user:hunter2@127.0.0.1:9/api")
    said = json.loads(done.stdout)
    assert (done.returncode, said["error"]) == (1, "orchestrator-unavailable")
    assert "http://127.0.0.1:9 " in said["message"]
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://user:hunter2@[::1]:9/api", "http://[::1]:9 "),
        ("http://user:hunter2", "PREFECT_API_URL"),
        ("user:hunter2@host", "PREFECT_API_URL"),
    ],
    ids=["nobody listens on IPv6", "a password for a port", "no scheme"],
)
def test_an_address_that_is_not_usable_is_named_without_its_password(url: str, words: str) -> None:
    assert words in _unavailable(url)


@pytest.mark.parametrize(
    ("answer", "status"),
    [(b"no", 401), (b"no", 404), (b"<html></html>", 200), (b'"3.8.8"', 200)],
    ids=["it refuses", "it is something else", "it is a page", "it answers nonsense"],
)
def test_a_server_that_is_no_prefect_is_named_without_its_password(answer: bytes, status: int) -> None:
    with answering(answer, status=status) as address:
        assert address in _unavailable(address.replace("//", "//user:hunter2@") + "/api")


def _unavailable(url: str) -> str:
    """What is said of a server at that address, which holds no password."""
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(OrchestratorUnavailable) as refused:
        run_local(onboard_model, model=NAME)
    assert "hunter2" not in str(refused.value)
    return str(refused.value)


def test_a_setting_that_prefect_refuses_is_named_without_its_value(clients: Clients) -> None:
    done = command(NAME, PREFECT_LOGGING_LEVEL="hunter2")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("paddock: Prefect refuses its settings: LoggingSettings.level: ")
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr.lower()
