"""`paddock onboard`, with a Prefect server that records the run and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import TypeAdapter

from flows.onboard import onboard_model
from flows.parameters import Target
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from paddock.errors import OrchestratorUnavailable
from paddock.lifecycle.assess.validate import read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.locate import locate
from paddock.lifecycle.run.benchmark import read_benchmark
from paddock.model.reference import Reference
from paddock.model.units import parse_bytes
from tests.flows.test_onboard import CUT, roomy
from tests.support.fixed_response import fixed_response_server
from tests.support.forked import Command
from tests.support.program import Outcome, Paddock, paddock
from tests.support.tiny_hub import MODEL, NAME, tiny_model

__all__ = ["paddock"]


def command(*arguments: str, **environment: str) -> Outcome:
    with Command("onboard", *arguments, env={**os.environ, **environment}) as onboard:
        out, err = onboard.communicate(timeout=170)
    return Outcome(onboard.wait(), out, err)


@pytest.fixture
def recorded(prefect_server: PrefectServer) -> dict[str, str]:
    """An environment with a Prefect server."""
    return prefect_server.environment


@pytest.fixture
def unrecorded(tmp_path: Path) -> dict[str, str]:
    """An environment without one."""
    return {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "prefect")}


@pytest.mark.torture
@pytest.mark.usefixtures("clients")
def test_it_prints_one_json_object(
    hub: HubService, monkeypatch: pytest.MonkeyPatch, paddock: Paddock, recorded: dict[str, str]
) -> None:
    """In a process of its own: below, and without a Prefect server."""
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})
    monkeypatch.setenv("PREFECT_API_URL", recorded["PREFECT_API_URL"])
    done = paddock("onboard", NAME, "--json")
    assert done.status == 0, done.stderr
    payload = done.json
    assert (payload["state"], payload["quantization"], payload["promoted"]) == ("Completed", "Q8_0", True)
    assert payload["variant"] == Path(payload["path"]).resolve().name == "Q8_0"
    assert payload["revision"] == Path(payload["path"]).resolve().parent.name
    assert payload["notes"] == [CUT]
    assert Path(payload["dossier"]).read_text().startswith(f"# {NAME}")


def test_without_a_prefect_server_it_runs_in_its_process_and_writes_dossier_and_reports(
    clients: Clients, hub: HubService, unrecorded: dict[str, str]
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})
    line = [sys.executable, "-X", "importtime", "-m", "paddock", "onboard", NAME]
    environment = {**os.environ, **unrecorded}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f": promoted; {CUT}")
    assert "## Benchmark" in done.stdout
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    for words in ("is at commit", "fits:", "fetched, from hub", "published", "the verdict is", "promoted Q8_0@"):
        assert any(words in line for line in lines), words
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "paddock.lifecycle.onboard" in imported
    assert "prefect" not in imported

    manifest = locate(clients, Reference(MODEL))
    assert clients.volume.promoted(MODEL).default_id == manifest.id
    assert read_validation(clients, manifest) is not None
    assert read_benchmark(clients, manifest) is not None
    dossier = clients.volume.read_report(manifest.id, "dossier.md")
    assert dossier is not None
    assert "**Promoted, as the model's default.**" in dossier


@pytest.mark.usefixtures("clients")
def test_without_a_prefect_server_a_failed_request_to_the_hub_is_retried(
    hub: HubService, monkeypatch: pytest.MonkeyPatch, paddock: Paddock, unrecorded: dict[str, str]
) -> None:
    for name, value in unrecorded.items():
        monkeypatch.setenv(name, value)
    hub.inject("status", "/api/models/*", where="hub", status=503)
    done = paddock("onboard", NAME, "--target", "1KiB", "--json")
    assert (done.status, done.json["error"]) == (2, "does-not-fit"), "the step that met the fault has succeeded"


@pytest.mark.parametrize(
    ("name", "text", "configured"),
    [
        ("profiles.toml", 'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n', True),
        ("profiles.toml", 'active = "a"\n[profiles.a]\n', False),
        (".env", "PREFECT_API_URL=http://127.0.0.1:9/api\n", True),
        (".env", "OTHER=1\n", False),
        # Each file that may name a server costs an import of Prefect.
        pytest.param("prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"\n', True, marks=pytest.mark.torture),
        pytest.param(
            "pyproject.toml", '[tool.prefect.api]\nurl = "http://127.0.0.1:9/api"\n', True, marks=pytest.mark.torture
        ),
        ("pyproject.toml", '[project]\nname = "mine"\n', False),
        (None, "", False),
    ],
)
def test_a_prefect_server_is_found_wherever_prefect_would_find_it(
    tmp_path: Path, name: str | None, text: str, configured: bool
) -> None:
    if name is not None:
        (tmp_path / name).write_text(text)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    line = "from flows.prefect_settings import server_is_configured; print(server_is_configured())"
    done = subprocess.run(
        [sys.executable, "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(configured)


BAD = {
    "unknown repository": (["nobody/nothing"], 1, "model-not-found"),
    "gated repository": (["org/gated"], 1, "model-gated"),
    "no GGUF in it": (["org/weights"], 2, "no-gguf"),
    "too small a target": ([NAME, "--target", "1KiB"], 2, "does-not-fit"),
    "unsafe name": (["../../etc"], 3, "unsafe-name"),
    "not a target": ([NAME, "--target", "much"], 3, "bad-setting"),
    "a variant and another quantization": ([f"{NAME}:Q8_0", "--quant", "Q4_K_M"], 3, "bad-setting"),
    "two variants": ([f"{NAME}:Q8_0:Q4_K_M"], 3, "unsafe-name"),
    "an empty quantization": ([NAME, "--quant", ""], 3, "wrong-usage"),
}


@pytest.fixture
def refusing(clients: Clients, hub: HubService) -> None:
    """A Hub that also has a gated repository, and one without a GGUF."""
    hub.repository("org/gated", gated=True).commit({"tiny-Q8_0.gguf": tiny_model()})
    hub.repository("org/weights").commit({"model.safetensors": b"x" * 64, "config.json": b"{}"})


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_its_exit_status_without_a_server(
    monkeypatch: pytest.MonkeyPatch, paddock: Paddock, unrecorded: dict[str, str], case: str
) -> None:
    arguments, status, error = BAD[case]
    for name, value in unrecorded.items():
        monkeypatch.setenv(name, value)
    done = paddock("onboard", *arguments, "--json")
    assert (done.status, done.json["error"]) == (status, error), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_its_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    paddock: Paddock,
    recorded: dict[str, str],
    case: str,
) -> None:
    arguments, status, error = BAD[case]
    with_password = recorded["PREFECT_API_URL"].replace("//", "//user:hunter2@")
    monkeypatch.setenv("PREFECT_API_URL", with_password)
    with temporary_settings({PREFECT_API_URL: with_password}):
        done = paddock("onboard", *arguments, "--json")
    assert (done.status, done.json["error"]) == (status, error), done.stderr
    assert "Traceback" not in done.stderr + caplog.text
    assert "hunter2" not in done.stdout + done.stderr + caplog.text


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("server", "case"),
    [
        ("recorded", "no GGUF in it"),
        pytest.param("recorded", "not a target", marks=pytest.mark.torture),
        ("unrecorded", "no GGUF in it"),
        ("unrecorded", "not a target"),
    ],
)
def test_a_process_prints_nothing_else_for_bad_input(request: pytest.FixtureRequest, server: str, case: str) -> None:
    """A flow that fails, and one that does not start: Prefect's loggers write to the process's standard error."""
    arguments, status, error = BAD[case]
    environment: dict[str, str] = request.getfixturevalue(server)
    with_password = environment["PREFECT_API_URL"].replace("//", "//user:hunter2@")
    done = command(*arguments, "--json", **(environment | {"PREFECT_API_URL": with_password}))
    assert (done.status, json.loads(done.stdout)["error"]) == (status, error), done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.torture
@pytest.mark.usefixtures("refusing")
def test_each_line_of_a_recorded_run_is_an_object_that_names_it(recorded: dict[str, str]) -> None:
    """Prefect's loggers write to the process's standard error too."""
    arguments, status, error = BAD["no GGUF in it"]
    done = command(*arguments, **(recorded | {"PADDOCK_LOG_FORMAT": "json"}))
    assert done.status == status
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines[-1]["error"] == error
    runs = {line["run"] for line in lines if line["logger"].startswith("prefect.") and "run" in line}
    assert runs, "a flow run"
    assert {len(run) for run in runs} == {36}


@pytest.mark.parametrize("target", ["this-machine", "24gib", "24 GB", "1.5G", "2p", "8589934592"])
def test_a_target_is_written_as_any_size_is(target: str) -> None:
    assert TypeAdapter(Target).validate_python(target) == target
    if target != "this-machine":
        assert parse_bytes(target) > 0


def test_a_prefect_server_that_is_not_there_is_named_without_its_password(clients: Clients) -> None:
    done = command(NAME, "--json", PREFECT_API_URL="http://user:hunter2@127.0.0.1:9/api")
    payload = json.loads(done.stdout)
    assert (done.status, payload["error"]) == (1, "orchestrator-unavailable")
    assert "http://127.0.0.1:9 " in payload["message"]
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
    assert words in unavailable_message(url)


@pytest.mark.parametrize(
    ("answer", "status"),
    [(b"no", 401), (b"no", 404), (b"<html></html>", 200), (b'"3.8.8"', 200)],
    ids=["it refuses", "it is something else", "it is a page", "it answers nonsense"],
)
def test_a_server_that_is_no_prefect_is_named_without_its_password(answer: bytes, status: int) -> None:
    with fixed_response_server(answer, status=status) as address:
        assert address in unavailable_message(address.replace("//", "//user:hunter2@") + "/api")


def unavailable_message(url: str) -> str:
    """The message of the error for a server at that address; it must hold no password."""
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(OrchestratorUnavailable) as refused:
        run_local(onboard_model, model=NAME)
    assert "hunter2" not in str(refused.value)
    return str(refused.value)


def test_a_setting_that_prefect_refuses_is_named_without_its_value(clients: Clients) -> None:
    done = command(NAME, PREFECT_LOGGING_LEVEL="hunter2", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (done.status, done.stdout) == (3, "")
    assert done.stderr.startswith("paddock: Prefect refuses its settings: LoggingSettings.level: ")
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr.lower()
