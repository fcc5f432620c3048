"""`paddock onboard`: the flow in this process, with the command line's own manners."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.hub import Service
from infra.local.prefect_server import PrefectServer
from paddock.lifecycle.parts import Parts
from tests.flows.test_onboard import roomy
from tests.support.house import NAME, tiny


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "paddock", "onboard", *arguments]
    return subprocess.run(
        line, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=170
    )


@pytest.fixture
def recorded(prefect_server: PrefectServer) -> dict[str, str]:
    return prefect_server.environment


def test_it_prints_one_object_with_what_scripts_need(
    parts: Parts, hub: Service, recorded: dict[str, str], tmp_path: Path
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})
    done = command(NAME, "--json", **recorded)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["state"], said["quantization"], said["promoted"]) == ("Completed", "Q8_0", True)
    assert Path(said["path"]).resolve().name == said["revision"]
    assert Path(said["dossier"]).read_text().startswith(f"# {NAME}")


def test_without_a_prefect_server_it_runs_on_a_temporary_one_and_leaves_none(
    parts: Parts, hub: Service, tmp_path: Path
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})
    home = tmp_path / "prefect"
    done = command(NAME, PREFECT_API_URL="", PREFECT_HOME=str(home), PREFECT_SERVER_ANALYTICS_ENABLED="false")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("promoted")
    assert "## Benchmark" in done.stdout
    held = subprocess.run(["pgrep", "-f", str(home)], capture_output=True, text=True, check=False)
    assert held.stdout == ""


BAD = {
    "unknown repository": (["nobody/nothing"], 1, "model-not-found"),
    "gated repository": (["org/gated"], 1, "model-gated"),
    "no GGUF in it": (["org/weights"], 2, "no-gguf"),
    "too small a target": ([NAME, "--target", "1KiB"], 2, "does-not-fit"),
    "unsafe name": (["../../etc"], 3, "unsafe-name"),
    "not a target": ([NAME, "--target", "much"], 3, "bad-setting"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_its_exit_status(
    parts: Parts, hub: Service, recorded: dict[str, str], case: str
) -> None:
    hub.repository("org/gated", gated=True).commit({"tiny-Q8_0.gguf": tiny()})
    hub.repository("org/weights").commit({"model.safetensors": b"x" * 64, "config.json": b"{}"})
    arguments, status, error = BAD[case]
    done = command(*arguments, "--json", **recorded)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (status, error), done.stderr
    assert "Traceback" not in done.stderr


def test_a_prefect_server_that_is_not_there_is_named(parts: Parts) -> None:
    done = command(NAME, "--json", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (done.returncode, json.loads(done.stdout)["error"]) == (1, "orchestrator-unavailable")
    assert "Traceback" not in done.stderr
