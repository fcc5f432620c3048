"""The real model behind the server: complete answers under load, clean errors when the engine dies, shutdown."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from paddock.engine.oracle import Memory, measure_memory
from paddock.errors import BadSetting, EngineCrashed, MalformedGguf, ModelRejected
from paddock.serving.engine.llama_server import find_program
from paddock.serving.engine.supervisor import SupervisorLimits
from paddock.serving.http.binding import Binding
from paddock.serving.spec import ServeSpec
from tests.support.engine import hollow_copy, real_model
from tests.support.fault_totals import Faults
from tests.support.gguf import tiny_shards
from tests.support.prometheus_text import read_metrics
from tests.support.serving import (
    RunningServer,
    any_complete,
    ask,
    ask_many,
    has_restarted,
    running,
    under_load,
)
from tests.support.waiting import wait_for

QUICK = SupervisorLimits(start_s=120.0, check_interval_s=0.2, stalled_s=1.0, busy_s=60.0, pauses_s=(0.1, 0.2))
MIB = 2**20


@pytest.fixture(scope="module")
def served(parallel_serve_spec: ServeSpec) -> Iterator[RunningServer]:
    with running(parallel_serve_spec) as now:
        yield now


def load(served: RunningServer, number: int) -> None:
    """Every answer is whole, and what the engine and this process hold does not grow with the requests."""
    ask_many(served.url, 8)  # buffers, threads and the context are warm then
    engine, server = served.engine, psutil.Process()
    before = engine.memory_info().rss, server.memory_info().rss
    answers = ask_many(served.url, number)
    grown = [process.memory_info().rss - was for process, was in zip((engine, server), before, strict=True)]
    print(
        f"{number} requests, 8 at a time: {sum(one.complete for one in answers)} whole;"
        f" engine {grown[0] / MIB:+.1f} MiB, server {grown[1] / MIB:+.1f} MiB"
    )
    assert [one for one in answers if not one.complete] == []
    assert grown[0] < 8 * MIB
    assert grown[1] < 32 * MIB  # the clients live here too


def test_every_answer_under_load_is_whole_and_memory_does_not_grow(served: RunningServer) -> None:
    load(served, 12)


@pytest.mark.torture
def test_a_thousand_answers_under_load_are_whole_and_memory_does_not_grow(served: RunningServer) -> None:
    load(served, 1000)


def test_streamed_and_complete_answers_are_the_same(served: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "Where is Paris?"}], "max_tokens": 24, "temperature": 0}
    whole = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60).json()
    streamed = httpx.post(f"{served.url}/v1/chat/completions", json={**body, "stream": True}, timeout=60)
    with httpx.Client(base_url=served.url) as client:
        assert ask(client, stream=True).complete
    texts = [line for line in streamed.text.splitlines() if '"content"' in line]
    assert whole["choices"][0]["message"]["content"]
    assert len(texts) > 5
    assert whole["usage"]["completion_tokens"] == 24


def test_health_models_and_metrics_describe_what_is_served(served: RunningServer) -> None:
    health = httpx.get(f"{served.url}/health").json()
    assert (health["status"], health["restarts"], health["model"]) == ("ok", 0, served.spec.name)
    models = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert [one["id"] for one in models] == [served.spec.name]
    with httpx.Client(base_url=served.url, timeout=60) as client:
        assert ask(client, stream=True).complete
    metrics = httpx.get(f"{served.url}/metrics").text
    read_metrics(metrics)
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line and not line.startswith("#"))
    assert float(values["paddock_generation_tokens_total"]) > 0
    assert float(values["paddock_prompt_tokens_total"]) > 0
    assert float(values["paddock_time_to_first_token_seconds_count"]) >= 1
    assert 0 < float(values["paddock_engine_held_bytes"]) < float(values["paddock_engine_planned_bytes"]) + 256 * MIB
    assert "llamacpp:prompt_tokens_total" in values


def test_the_engine_has_no_secret_in_its_environment(served: RunningServer) -> None:
    variables = served.engine.environ()
    assert set(variables) <= {
        *("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "LANG", "LC_ALL", "TZ", "HOME"),
        *("GGML_NO_BACKTRACE", "OPENBLAS_NUM_THREADS", "CUDA_DEVICE_ORDER"),
    }
    assert Path(variables["HOME"]) != Path.home(), "its own directory: it looks for settings there"


LOADED = """
import llama_cpp
from llama_cpp import mtmd_cpp
print(llama_cpp.llama_version().decode())
print(open("/proc/self/maps").read())
"""


def libraries(maps: str) -> dict[str, tuple[str, str]]:
    """(device, inode) of each mapped library of the engine, by its name."""
    rows = [line.split(maxsplit=5) for line in maps.splitlines()]
    names = {Path(row[5]).name: (row[3], row[4]) for row in rows if len(row) == 6}
    return {name: file for name, file in names.items() if name.startswith(("libllama.", "libggml", "libmtmd."))}


def test_the_server_runs_the_library_files_that_plans_are_made_with(served: RunningServer) -> None:
    printed = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout
    version, maps = printed.split("\n", 1)
    planning = libraries(maps)
    serving = libraries(Path(f"/proc/{served.engine.pid}/maps").read_text())
    assert {"libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so", "libmtmd.so"} <= planning.keys()
    assert serving == planning
    assert served.address is not None
    assert served.address.server_version.startswith(f"{version} ")


def test_libraries_of_another_llama_cpp_on_the_search_path_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "libllama.so").write_bytes(b"another llama.cpp")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    own = find_program(None)
    assert own.environment()["LD_LIBRARY_PATH"] == f"{own.path.parent}:{tmp_path}"
    assert own.version != "unknown"


def test_a_request_ends_when_its_client_disconnects(served: RunningServer) -> None:
    """A long answer that nobody reads would hold the engine for seconds."""
    body = {"messages": [{"role": "user", "content": "Count to a thousand."}], "max_tokens": 1500}
    address = f"{served.url}/v1/chat/completions"
    with httpx.stream("POST", address, json={**body, "stream": True}, timeout=60) as answer:
        next(answer.iter_lines())  # it has begun; the rest takes far longer than a wait for it may
    with suppress(httpx.ReadTimeout):
        httpx.post(address, json=body, timeout=0.5)
    wait_for(lambda: httpx.get(f"{served.url}/health", verify=False).json()["running"] == 0)
    engine = served.engine
    wait_for(lambda: engine.cpu_percent(interval=0.3) < 20)


def test_requests_of_a_killed_engine_get_a_clean_error_and_the_engine_restarts(
    serve_spec: ServeSpec, faults: Faults
) -> None:
    faults.add()
    killed(serve_spec, times=1)


@pytest.mark.torture
def test_an_engine_that_is_killed_a_hundred_times_restarts_each_time(serve_spec: ServeSpec, faults: Faults) -> None:
    faults.add(100)
    killed(serve_spec, times=100)


def killed(serve_spec: ServeSpec, *, times: int) -> None:
    limits = replace(QUICK, stalled_s=60.0, strikes=times + 1, pauses_s=(0.1,))
    took: list[tuple[float, float]] = []
    with running(serve_spec, limits=limits) as served:
        for number in range(times):
            with under_load(served.url) as answers:
                wait_for(partial(any_complete, answers))
                engine = served.engine
                engine.send_signal(signal.SIGABRT if number % 2 else signal.SIGKILL)
                began = time.monotonic()
                wait_for(partial(has_restarted, served.url, number + 1), limit_s=60)
                took.append((time.monotonic() - began, load_s(served.url)))
            assert [one for one in answers if not one.well_formed] == []
            assert {one.status for one in answers if not one.complete} <= {200, 429, 502, 503}
            assert any(not one.complete for one in answers)
        with httpx.Client(base_url=served.url, timeout=60) as client:
            assert ask(client, stream=False).complete
    back, load, over = max(one for one, _ in took), max(one for _, one in took), max(a - b for a, b in took)
    print(
        f"killed or aborted {times} times, back after {back:.2f} s at most; a load took {load:.2f} s at most,"
        f" and the rest {over:.2f} s"
    )


def load_s(url: str) -> float:
    """How long the last load of the model took."""
    metrics = httpx.get(f"{url}/metrics", timeout=30).text
    return float(re.findall(r"^paddock_engine_load_seconds (\S+)$", metrics, re.MULTILINE)[0])


def test_after_three_crashes_it_stops_and_says_why(serve_spec: ServeSpec) -> None:
    with running(serve_spec, limits=QUICK) as served:
        for number in range(3):
            wait_for(partial(has_restarted, served.url, number))
            served.engine.send_signal(signal.SIGABRT if number == 1 else signal.SIGKILL)
        assert served.ended.wait(20)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{served.url}/health")
    assert isinstance(served.error, EngineCrashed)
    message = served.error.message
    assert "failed 3 times" in message
    assert "is not restarted" in message
    assert message.count("SIGKILL") == 2
    assert message.count("SIGABRT") == 1


def test_an_engine_that_hangs_is_restarted(serve_spec: ServeSpec) -> None:
    with running(serve_spec, limits=QUICK) as served:
        hung = served.engine
        hung.suspend()
        with httpx.Client(base_url=served.url, timeout=60) as client:
            answer = ask(client, stream=False)
            assert (answer.status, answer.well_formed) == (502, True)
            wait_for(lambda: has_restarted(served.url, 1))
            assert ask(client, stream=False).complete
        assert not hung.is_running()


def test_an_engine_that_uses_more_memory_than_planned_is_stopped(serve_spec: ServeSpec) -> None:
    """The KV cache of 32,768 tokens is 720 MiB, which the plan does not include."""
    parameters = replace(serve_spec.parameters, n_ctx=32768)
    greedy = replace(serve_spec, parameters=parameters, memory=Memory(MIB, 0, 0, 0, "engine"))
    with running(greedy, limits=replace(QUICK, strikes=1)) as served:
        assert served.ended.wait(60)
    assert isinstance(served.error, EngineCrashed)
    assert "1.0 MiB were planned" in served.error.message


def test_a_model_whose_canary_fails_is_never_ready(serve_spec: ServeSpec, tmp_path: Path) -> None:
    """Its weights are all zero, so that every token has the same logit."""
    silent = replace(serve_spec, file=hollow_copy(real_model(), tmp_path / "silent.gguf"))
    with pytest.raises(ModelRejected, match="the same"), running(silent):
        pass


def test_a_file_that_the_engine_refuses_is_an_error_with_its_reason(serve_spec: ServeSpec, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(real_model().read_bytes()[: 8 * MIB])
    refused = pytest.raises((MalformedGguf, EngineCrashed), match="data is not within the file bounds")
    with refused, running(replace(serve_spec, file=cut)):
        pass


def test_a_split_model_is_served_from_all_its_shards(serve_spec: ServeSpec, tmp_path: Path) -> None:
    for number, shard in enumerate(tiny_shards(2), 1):
        (tmp_path / f"tiny-{number:05}-of-00002.gguf").write_bytes(shard.to_bytes())
    first = tmp_path / "tiny-00001-of-00002.gguf"
    parameters = replace(serve_spec.parameters, n_ctx=256)
    memory = measure_memory(first, context_tokens=256, parameters=parameters)
    with running(replace(serve_spec, file=first, parameters=parameters, memory=memory)) as served:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            answer = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 4})
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0


def test_a_request_to_a_full_queue_gets_429_and_a_time_to_retry(serve_spec: ServeSpec) -> None:
    with running(serve_spec, queue=1) as served:
        with under_load(served.url, at_once=6, max_tokens=24) as answers:
            wait_for(lambda: sum(one.status == 429 for one in answers) > 3 and any(one.complete for one in answers))
            refused = httpx.post(f"{served.url}/v1/completions", json={"prompt": "a"}, timeout=30)
        assert [one for one in answers if not one.well_formed] == []
        if refused.status_code == 429:  # a slot may have become free in between
            assert int(refused.headers["retry-after"]) >= 1
        turned = next(one for one in answers if one.status == 429)
        assert turned.error is not None
        assert (turned.error["type"], turned.error["code"]) == ("rate_limit_error", "queue_full")
        used = served
    assert sum(one.requests for one in used.used) >= sum(one.complete for one in answers)
    assert sum(one.completion_tokens for one in used.used) > 0


def test_every_path_but_health_requires_the_api_key(serve_spec: ServeSpec) -> None:
    with running(serve_spec, api_key="canary-key-1") as served:
        assert httpx.get(f"{served.url}/health").status_code == 200
        for path in ("/v1/models", "/metrics"):
            assert httpx.get(f"{served.url}{path}").status_code == 401
            right = {"authorization": "Bearer canary-key-1"}
            assert httpx.get(f"{served.url}{path}", headers=right).status_code == 200
        wrong = httpx.post(
            f"{served.url}/v1/completions", json={"prompt": "a"}, headers={"authorization": "Bearer canary-key-2"}
        )
        assert wrong.status_code == 401
        assert wrong.json()["error"]["code"] == "invalid_api_key"
        assert "canary-key" not in " ".join(served.engine.cmdline() + list(served.engine.environ().values()))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_an_address_beyond_this_machine_requires_an_api_key(host: str) -> None:
    with pytest.raises(BadSetting, match="PADDOCK_API_KEY"):
        Binding(host=host, port=0, api_key=None)
    assert "canary" not in repr(Binding(host=host, port=0, api_key="canary"))


def test_a_port_in_use_is_an_error_before_the_model_is_loaded(serve_spec: ServeSpec) -> None:
    with Binding(host="127.0.0.1", port=0, api_key=None).listen() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSetting, match=f"127.0.0.1:{port}: Address already in use"):
            Binding(host="127.0.0.1", port=port, api_key=None).listen()
