"""`paddock serve` as users and process supervisors see it: output, signals, exit statuses, lease and usage records."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from paddock.cli.main import main
from paddock.lifecycle.clients import Clients
from paddock.serving.engine.llama_server import find_program
from tests.support.forked import Command as Process
from tests.support.serving import (
    REAL_MODEL_ID,
    REAL_MODEL_NAME,
    ServeProgram,
    any_complete,
    ask,
    engines_of,
    has_restarted,
    under_load,
)
from tests.support.waiting import wait_for

Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def _use_promoted_model(promoted_model: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_VOLUME", str(promoted_model.settings.volume))
    monkeypatch.setenv("PADDOCK_THREADS", "1")  # see `make_serve_spec`
    monkeypatch.delenv("PADDOCK_API_KEY", raising=False)


@pytest.fixture
def command(_use_promoted_model: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `paddock serve` in this process, for errors before a load; returns (exit status, printed object)."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["paddock", "serve", *arguments, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, json.loads(capfd.readouterr().out)

    return run


@pytest.mark.usefixtures("_use_promoted_model")
def test_sigterm_under_load_ends_every_started_answer_within_the_grace_period(promoted_model: Clients) -> None:
    ended_under_load(promoted_model, times=1)


@pytest.mark.torture
@pytest.mark.usefixtures("_use_promoted_model")
def test_sigterm_under_load_ends_every_started_answer_twenty_times(promoted_model: Clients) -> None:
    ended_under_load(promoted_model, times=20)


@pytest.mark.usefixtures("_use_promoted_model")
def test_a_signal_before_the_model_is_ready_is_a_failure(tmp_path: Path) -> None:
    slow = tmp_path / "llama-server"  # starts, but never answers
    slow.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\nwhile :; do sleep 0.1; done\n')
    slow.chmod(0o755)
    environment = {**os.environ, "PADDOCK_LLAMA_SERVER": str(slow)}
    with Process("serve", str(REAL_MODEL_NAME), "--port", "0", "--json", env=environment) as process:
        wait_for(lambda: _loads(process.pid))
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert json.loads(out)["error"] == "server-unavailable"


def _loads(pid: int) -> bool:
    """Whether a server's process has started an engine."""
    with suppress(psutil.Error):
        return any("--model" in engine.cmdline() for engine in engines_of(pid))
    return False


def ended_under_load(promoted_model: Clients, *, times: int) -> None:
    manifest = promoted_model.volume.snapshots(REAL_MODEL_NAME)[0]
    slowest, whole = 0.0, 0
    for _ in range(times):
        with ServeProgram(REAL_MODEL_ID) as program:
            printed = program.output
            assert printed["server"].startswith("llama-server ")
            assert (printed["model"], printed["revision"]) == (REAL_MODEL_ID, manifest.revision)
            assert printed["base_url"] == f"{program.url}/v1"
            assert printed["processor"].startswith(("CPU: ", "GPU: "))
            assert promoted_model.volume.in_use(manifest.id)
            before = promoted_model.volume.usage.read(manifest.id).usage
            with under_load(program.url) as answers:
                wait_for(partial(any_complete, answers))
                engine, began = program.engine, time.monotonic()
                status, err = program.end()
                slowest = max(slowest, time.monotonic() - began)
        assert (status, err) == (0, "")
        assert not engine.is_running()
        # Where the grace period had ended before the answers, it would have printed so on standard error.
        assert [one for one in answers if not one.well_formed and not one.not_accepted] == []
        assert {one.status for one in answers if not one.complete} <= {0, 503}  # no stream was cut off
        assert not promoted_model.volume.in_use(manifest.id)
        after = promoted_model.volume.usage.read(manifest.id).usage
        assert after.requests - before.requests == sum(one.complete for one in answers)
        assert after.completion_tokens > before.completion_tokens
        assert (after.uses - before.uses, after.seconds > before.seconds) == (1, True)
        whole += sum(one.complete for one in answers)
    print(f"SIGTERM {times} times under load, {whole} whole answers, {slowest:.2f} s at most to the exit")


@pytest.mark.usefixtures("_use_promoted_model")
def test_the_memory_of_refused_prompts_is_used_again() -> None:
    with ServeProgram(REAL_MODEL_ID) as program, httpx.Client(base_url=program.url, timeout=60, verify=False) as client:

        def refused(times: int) -> int:
            """The memory of the server after prompts of 100 kB that the engine refuses, in bytes."""
            for _ in range(times):
                assert ask(client, stream=False, content="word " * 20_000).status == 400
            return psutil.Process(program.process.pid).memory_info().rss

        before = refused(20)
        assert refused(120) - before < 15 * 2**20
        assert program.end() == (0, "")


@pytest.mark.usefixtures("_use_promoted_model")
def test_requests_still_running_after_the_grace_period_get_a_clean_error() -> None:
    with (
        ServeProgram(REAL_MODEL_ID, "--parallel", "1", environment={"PADDOCK_GRACE_S": "1"}) as program,
        under_load(program.url, at_once=2, max_tokens=4000, ignore_eos=True) as answers,
    ):
        wait_for(
            lambda: (
                {"running": 1, "waiting": 1}.items() <= httpx.get(f"{program.url}/health", verify=False).json().items()
            )
        )
        status, err = program.end()
    assert status == 0
    assert "the grace period is over: 1 answers are cut off" in err
    assert [one for one in answers if not one.well_formed and not one.not_accepted] == []
    assert {one.error["code"] for one in answers if one.error and "code" in one.error} == {"engine_died", "not_ready"}


@pytest.mark.usefixtures("_use_promoted_model")
def test_a_killed_engine_leaves_the_lease_and_a_promotion_in_between_changes_nothing(
    promoted_model: Clients, tmp_path: Path
) -> None:
    """And without nvidia-ml-py it says so, and serves."""
    (manifest,) = promoted_model.volume.snapshots(REAL_MODEL_NAME)
    (tmp_path / "pynvml.py").write_text("raise ImportError")
    environment = {"PYTHONPATH": str(tmp_path)}
    with ServeProgram(REAL_MODEL_ID, "--ctx", "512", "--parallel", "1", environment=environment) as program:
        assert program.output["processor"] == "CPU: the package nvidia-ml-py is not installed"
        assert program.output["parameters"]["n_ctx"] == 512
        promoted_model.volume.model_path(REAL_MODEL_NAME).unlink()  # as a promotion replaces it
        program.engine.kill()
        wait_for(partial(has_restarted, program.url, 1))
        assert promoted_model.volume.in_use(manifest.id)
        with httpx.Client(base_url=program.url, timeout=60) as client:
            assert ask(client, stream=False).complete
        assert httpx.get(f"{program.url}/v1/models").json()["data"][0]["revision"] == manifest.revision
        promoted_model.volume.promote(manifest.id, reason="back")
        engine = program.engine
        program.process.kill()  # even that leaves no engine behind, and no lease
        wait_for(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE)
        wait_for(lambda: not promoted_model.volume.in_use(manifest.id))


@pytest.mark.usefixtures("_use_promoted_model")
def test_after_three_crashes_it_ends_with_one_line_that_lists_them(promoted_model: Clients) -> None:
    with ServeProgram(REAL_MODEL_ID, "--ctx", "512") as program:
        for number in range(3):
            wait_for(partial(has_restarted, program.url, number))
            program.engine.send_signal(signal.SIGKILL)
        status, err = program.wait()
    assert status == 1
    *strikes, last = err.splitlines()
    assert ["strike" in line for line in strikes] == [True, True]
    assert last.startswith("paddock: the engine failed 3 times in")
    assert promoted_model.volume.counters.read()["failures"]["EngineCrashed"] >= 1
    assert "is not restarted: 1. the engine was ended by SIGKILL" in last


@pytest.mark.torture
@pytest.mark.usefixtures("_use_promoted_model")
def test_with_logs_as_json_each_line_is_an_object_that_names_the_served_revision(promoted_model: Clients) -> None:
    (manifest,) = promoted_model.volume.snapshots(REAL_MODEL_NAME)
    with ServeProgram(REAL_MODEL_ID, "--ctx", "512", environment={"PADDOCK_LOG_FORMAT": "json"}) as program:
        program.engine.send_signal(signal.SIGKILL)
        wait_for(partial(has_restarted, program.url, 1))
        _, err = program.end()
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["message"] for line in lines if "strike" in line["message"]]
    served = {"model": REAL_MODEL_ID, "revision": manifest.revision, "variant": manifest.variant}
    assert all(served.items() <= line.items() for line in lines)


def test_an_address_beyond_this_machine_needs_an_api_key(command: Command) -> None:
    status, printed = command(REAL_MODEL_ID, "--host", "0.0.0.0")
    assert (status, printed["error"]) == (3, "bad-setting")
    assert "PADDOCK_API_KEY" in printed["cure"]


def test_a_port_in_use_is_a_usage_error(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, printed = command(REAL_MODEL_ID, "--ctx", "512", "--port", str(taken.getsockname()[1]))
    assert (status, printed["error"]) == (3, "bad-setting")
    assert "--port" in printed["cure"]


def test_more_context_than_the_model_was_trained_for_is_refused(command: Command) -> None:
    status, printed = command(REAL_MODEL_ID, "--ctx", "1000000")
    assert (status, printed["error"]) == (2, "conflicting-configuration")


def test_a_model_that_is_not_on_the_volume_is_an_error(command: Command) -> None:
    status, printed = command("org/absent")
    assert (status, printed["error"]) == (1, "not-on-volume")
    assert printed["cure"] == "pull or onboard it first (`paddock pull org/absent`)"


def test_a_quantization_that_is_not_on_the_volume_is_an_error(command: Command) -> None:
    status, printed = command(REAL_MODEL_ID, "--quant", "Q8_0")
    assert (status, printed["error"]) == (1, "not-on-volume")
    assert "(Q4_1@" in printed["message"]
    assert f"`paddock pull {REAL_MODEL_ID}:Q8_0`" in printed["cure"]


def test_a_llama_server_that_the_settings_name_but_is_not_there_is_an_error(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_LLAMA_SERVER", "/nowhere/llama-server")
    status, printed = command(REAL_MODEL_ID)
    assert (status, printed["error"]) == (3, "no-such-file")
    assert "PADDOCK_LLAMA_SERVER is /nowhere/llama-server" in printed["message"]
    assert "unset it" in printed["cure"]


def test_a_llama_server_of_another_version_is_an_error(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stranger = tmp_path / "llama-server"
    stranger.write_text('#!/bin/sh\necho "error: invalid argument: $1" >&2\nexit 1\n')
    stranger.chmod(0o755)
    monkeypatch.setenv("PADDOCK_LLAMA_SERVER", str(stranger))
    status, printed = command(REAL_MODEL_ID, "--port", "0", "--ctx", "512", "--parallel", "1")
    assert (status, printed["error"]) == (1, "engine-crashed")
    assert "ended with status 1 (error: invalid argument: --model)" in printed["message"]
    assert "unset PADDOCK_LLAMA_SERVER" in printed["cure"]


@pytest.mark.usefixtures("_use_promoted_model")
def test_another_llama_server_serves_and_its_version_is_said(tmp_path: Path) -> None:
    other = tmp_path / "llama-server"
    real = find_program(None).path
    other.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "version: 9.9" && exit\nexec {real} "$@"\n')
    other.chmod(0o755)
    environment = {"PADDOCK_LLAMA_SERVER": str(other)}
    with ServeProgram(REAL_MODEL_ID, "--ctx", "512", environment=environment) as program:
        assert program.output["server"] == "llama-server 9.9"
        with httpx.Client(base_url=program.url, timeout=60) as client:
            assert ask(client, stream=False).complete
        status, err = program.end()
    assert status == 0
    assert f"{other} is version 9.9, but the plan is made with {find_program(None).version}" in err


GPU_WORDS = """
import sys
if sys.argv[1] == "absent":
    sys.modules["pynvml"] = None
from paddock.model.hardware import this_machine
assert this_machine().gpus == ()
print(this_machine().why_no_gpu)
"""


@pytest.mark.parametrize(
    ("nvml", "words"), [("absent", "nvidia-ml-py is not installed"), ("present", "the NVIDIA driver is not available")]
)
def test_the_reason_for_no_gpu_is_given_in_words(nvml: str, words: str) -> None:
    if nvml == "present" and _has_driver():
        pytest.skip("this machine has an NVIDIA driver")
    done = subprocess.run([sys.executable, "-c", GPU_WORDS, nvml], capture_output=True, text=True, check=True)
    assert words in done.stdout
    assert done.stderr == ""


def _has_driver() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True
