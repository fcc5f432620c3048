"""The engine's child process: crashes, timeouts, interrupts, memory limits, and what it inherits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from paddock.engine import process
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting, EngineCrashed, EngineOutOfMemory, MissingShard, NoSuchFile
from tests.support.engine import engine_processes, wait_for_engine


def _long_job(descriptors: tuple[int, ...], *, n_ctx: int = 512) -> dict[str, object]:
    """A benchmark that takes longer than any test waits."""
    parameters = Parameters(n_ctx=n_ctx, n_threads=1).to_json()
    return {
        "paths": process.paths_of(descriptors),
        "parameters": parameters,
        "prompts": [500],
        "generations": [500],
        "limit_s": 60,
    }


@contextmanager
def _running(model: Path) -> Iterator[tuple[Future[process.Answer], psutil.Process]]:
    with process.open_shards(model) as descriptors, ThreadPoolExecutor(1) as pool:
        future = pool.submit(process.run, "benchmark", _long_job(descriptors), timeout_s=60, descriptors=descriptors)
        try:
            yield future, wait_for_engine()
        finally:
            for left in engine_processes():
                left.kill()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_an_engine_that_is_ended_by_a_signal_is_an_error_that_names_it(model: Path, name: str) -> None:
    with _running(model) as (future, child):
        child.send_signal(getattr(signal, name))
        with pytest.raises(EngineCrashed, match=name) as caught:
            future.result(20)
    assert caught.value.cure
    assert engine_processes() == []


def test_the_child_sees_no_token_and_no_key(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "HOME", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, "canary-7f3a")
    with _running(model) as (_, child):
        environment = Path(f"/proc/{child.pid}/environ").read_bytes()
        command = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    assert b"canary-7f3a" not in environment + command
    assert b"GGML_NO_BACKTRACE=1" in environment


def test_the_child_dumps_no_core_and_leads_its_own_group(model: Path) -> None:
    with _running(model) as (_, child):
        limits = Path(f"/proc/{child.pid}/limits").read_text()
        group = os.getpgid(child.pid)
        status = Path(f"/proc/{child.pid}/status").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert group == child.pid
    assert "NoNewPrivs:\t1" in status


def test_an_engine_that_takes_too_long_is_ended(model: Path) -> None:
    with (
        process.open_shards(model) as descriptors,
        pytest.raises(EngineCrashed, match=r"no answer to 'benchmark' within 1\.5 s"),
    ):
        process.run("benchmark", _long_job(descriptors), timeout_s=1.5, descriptors=descriptors)
    assert engine_processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_parent_that_is_interrupted_or_killed_leaves_no_engine(model: Path, number: signal.Signals) -> None:
    code = (
        "import sys; from pathlib import Path; from paddock.engine.parameters import Parameters;"
        "from paddock.measure.benchmark import benchmark;"
        "benchmark(Path(sys.argv[1]), parameters=Parameters(n_ctx=512, n_threads=1), n_prompt=500, n_gen=500)"
    )
    root = Path(process.__file__).parents[2]
    command = [sys.executable, "-c", code, str(model)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) as parent:
        child = wait_for_engine(parent.pid)
        parent.send_signal(number)
    assert parent.returncode == -number
    _, alive = psutil.wait_procs([child], timeout=10)
    assert alive == []


def test_an_engine_over_its_memory_limit_is_out_of_memory(model: Path) -> None:
    with process.open_shards(model) as descriptors, pytest.raises(EngineOutOfMemory, match="could not allocate"):
        process.run(
            "benchmark",
            _long_job(descriptors, n_ctx=200_000),
            timeout_s=30,
            memory_limit_bytes=2 * 2**30,
            descriptors=descriptors,
        )


def test_an_engine_that_aborts_without_memory_is_out_of_memory(model: Path) -> None:
    parameters = Parameters(n_ctx=4096, n_threads=1).to_json()
    with process.open_shards(model) as descriptors, pytest.raises(EngineOutOfMemory) as caught:
        process.run(
            "memory",
            {"paths": process.paths_of(descriptors), "parameters": [parameters]},
            timeout_s=30,
            memory_limit_bytes=50 * 2**20,
            descriptors=descriptors,
        )
    assert "free memory" in caught.value.cure


def test_an_exit_without_an_answer_reports_the_childs_last_error_line() -> None:
    with pytest.raises(EngineCrashed, match=r"status 1 and no answer .*KeyError: 'no-such-job'"):
        process.run("no-such-job", {}, timeout_s=30)


def test_nothing_is_imported_from_the_callers_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the caller')")
    (tmp_path / "llama_cpp.py").write_text("raise SystemExit('imported from the caller')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert process.run("architectures", {"names": ["llama"]}, timeout_s=30).result == {"known": {"llama": True}}


def test_a_name_that_is_swapped_after_opening_changes_nothing(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "model.gguf"
    link.symlink_to(model)
    with process.open_shards(link) as descriptors:
        link.unlink()
        link.write_bytes(b"something else")
        arguments = {
            "paths": process.paths_of(descriptors),
            "parameters": [Parameters(n_ctx=64, n_threads=1).to_json()],
        }
        result = process.run("memory", arguments, timeout_s=30, descriptors=descriptors).result
    assert '"weights_bytes": 96576768' in json.dumps(result)


@pytest.mark.parametrize("kind", ["nothing", "directory", "fifo"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(NoSuchFile, match=r"model\.gguf"), process.open_shards(path):
        pass


def test_all_shards_of_a_split_model_are_opened_in_order(tmp_path: Path) -> None:
    names = [f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    for name in names:
        (tmp_path / name).write_text(name)
    with process.open_shards(tmp_path / names[0]) as descriptors:
        assert [os.pread(descriptor, 99, 0).decode() for descriptor in descriptors] == names
    (tmp_path / names[1]).unlink()
    with pytest.raises(MissingShard, match="m-00002-of-00003"), process.open_shards(tmp_path / names[0]):
        pass


def test_an_endless_log_is_bounded() -> None:
    log = process.BoundedLog()
    for number in range(20_000):
        log.add(b"line %d of many, many lines\n" % number)
    text = log.text()
    assert len(text) < 300_000
    assert text.startswith("line 0 of")
    assert text.endswith("line 19999 of many, many lines\n")
    assert "bytes of the log omitted" in text


def test_parameters_out_of_range_are_named() -> None:
    with pytest.raises(BadSetting, match="n_ctx is 0"):
        Parameters(n_ctx=0, n_threads=1)
    with pytest.raises(BadSetting, match="type_k is 'q9_9'"):
        Parameters(n_ctx=1, n_threads=1, type_k="q9_9")
