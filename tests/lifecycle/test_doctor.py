"""`paddock doctor`: each check fails where its part is broken, and passes after its cure was carried out."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from paddock.engine.facts import EngineBuild
from paddock.errors import StoreUnavailable
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor import CHECKS, CheckResult, Diagnosis, run_checks
from paddock.lifecycle.upkeep.doctor.engine import check_engine, check_llama_server, gpu_result
from paddock.lifecycle.upkeep.doctor.process import (
    check_catalog_file,
    check_open_files,
    check_temporary_files,
    check_transfer,
)
from paddock.lifecycle.upkeep.doctor.volume import check_access, check_room, check_umask, check_volume
from paddock.model.gpu import DetectedGpus, Gpu
from paddock.store.volume.file_system import FILE_SYSTEM_FEATURES
from tests.support.doctor import changed, here, only, ready, states
from tests.support.namespaces import in_namespace
from tests.support.program import Paddock, paddock
from tests.support.users import GROUP, User

__all__ = ["here", "paddock", "ready"]


# The runner


def test_a_check_that_hangs_fails_or_breaks_does_not_hold_up_the_others(here: Clients) -> None:
    ended = threading.Event()

    def check_hanging(_: Clients) -> list[CheckResult]:
        ended.wait(30)
        return []

    def check_failing(_: Clients) -> list[CheckResult]:
        raise StoreUnavailable("it is down", cure="start it")

    def check_broken(_: Clients) -> list[CheckResult]:
        raise KeyError("x")

    def check_sound(_: Clients) -> list[CheckResult]:
        return [CheckResult("sound", True, "works"), CheckResult("slow", False, "slow", "wait", needed=False)]

    diagnosis = run_checks(here, [check_hanging, check_failing, check_broken, check_sound], limit_s=0.2)
    ended.set()
    assert states(diagnosis.checks) == {
        "hanging": "failed",
        "failing": "failed",
        "broken": "failed",
        "sound": "ok",
        "slow": "warning",
    }
    assert only(diagnosis.checks, "hanging").message == "no answer within 0.2 s"
    assert only(diagnosis.checks, "failing").cure == "start it"
    assert not diagnosis.ok
    assert run_checks(here, [check_sound]).ok


# The volume


def test_a_volume_that_is_there_passes_and_nothing_stays_on_it(ready: Clients) -> None:
    results = [*check_volume(ready), *check_room(ready), *check_access(ready), *check_umask(ready)]
    assert set(states(results).values()) == {"ok"}
    assert {f"volume: {feature.name}" for feature in FILE_SYSTEM_FEATURES} < set(states(results))
    assert list(ready.volume.root.iterdir()) == []
    ready.volume.prepare()
    assert only(check_volume(ready), "volume: one file system").ok


def test_files_that_vanish_meanwhile_are_no_files_of_others(ready: Clients) -> None:
    """The trials of the file system remove theirs while the volume is walked."""
    for _ in range(20):
        assert run_checks(ready, [check_volume, check_access], limit_s=30).ok


def test_the_cure_of_a_missing_volume_makes_it(here: Clients) -> None:
    (result,) = check_volume(here)
    assert (result.state, result.cure.partition(" (")[0]) == ("failed", "make it")
    os.system(result.cure.split("`")[1])
    assert set(states(check_volume(here)).values()) == {"ok"}


def test_what_is_safe_is_fixed_once_and_checked_again(
    here: Clients, monkeypatch: pytest.MonkeyPatch, paddock: Paddock
) -> None:
    monkeypatch.setenv("PADDOCK_VOLUME", str(here.volume.root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert not here.volume.root.exists()
    assert paddock("doctor", "--json").json["fixed"] == []
    assert not here.volume.root.exists()
    fixed = paddock("doctor", "--fix", "--json").json
    assert fixed["fixed"] == [f"volume: fixed: there is no {here.volume.root}"]
    assert {check["name"]: check["ok"] for check in fixed["checks"]}["volume"]
    assert ": fixed: " not in paddock("doctor", "--fix").stdout


def test_a_fix_that_fails_is_told_and_no_other_is_kept_from_its_work() -> None:
    def fail() -> None:
        raise PermissionError(13, "Permission denied", "/models")

    done: list[str] = []

    def work() -> None:
        done.append("work")

    checks = (
        CheckResult("a", False, "broken", "cure", fix=fail),
        CheckResult("b", False, "broken", "cure", fix=work),
        CheckResult("c", False, "broken", "cure", fix=work),
        CheckResult("d", False, "broken", "cure"),
        CheckResult("e", True, "sound", fix=fail),
    )
    assert Diagnosis(checks).fix() == (
        "a: not fixed: [Errno 13] Permission denied: '/models'",
        "b: fixed: broken",
    )
    assert done == ["work"]


def test_a_file_in_the_place_of_the_volume_is_no_volume(here: Clients, tmp_path: Path) -> None:
    here.volume.root.write_text("")
    assert [result.state for result in check_volume(here)] == ["failed"]
    assert check_volume(changed(here, volume=tmp_path))[0].ok


FAULTS = """
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.doctor.volume import check_room, check_volume
from paddock.settings import Settings
import errno, os, subprocess

def run(*command):
    subprocess.run(command, check=True)

def told(check, name):
    result = next(result for result in check(clients) if result.name == name)
    print(name, result.state)

clients = connect(Settings(volume=root))
volume = clients.volume
volume.prepare()
run("mount", "--bind", str(root), str(root))
run("mount", "-o", "remount,ro,bind", str(root))
told(check_volume, "volume")
told(check_room, "room")
run("mount", "-o", "remount,rw,bind", str(root))
told(check_volume, "volume")
run("umount", str(root))

run("mount", "-t", "tmpfs", "none", str(root / ".paddock" / "blobs"))
(root / ".paddock" / "blobs" / "sha256").mkdir()
told(check_volume, "volume: one file system")
run("umount", str(root / ".paddock" / "blobs"))
told(check_volume, "volume: one file system")

run("mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "none", str(root))
(root / "old").write_bytes(bytes(65536))
told(check_room, "room")
(root / "old").unlink()
told(check_room, "room")
for number in range(50):
    (root / str(number)).touch()
told(check_room, "room")
for number in range(50):
    (root / str(number)).unlink()
told(check_room, "room")
run("umount", str(root))

refused = None

def refuse(event, _):
    if event == refused:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

sys.addaudithook(refuse)
for event in ("os.symlink", "os.link", "fcntl.flock", None):  # None: the other file system that the cure asks for
    refused = event
    for result in check_volume(clients):
        if not result.ok:
            print(f"{result.name} {result.state}: {result.message}")
"""


def test_what_a_file_system_refuses_is_found_and_the_cure_helps(tmp_path: Path) -> None:
    out = in_namespace(tmp_path, 'mkdir -p "$root"', FAULTS).splitlines()
    assert out[:-3] == [
        "volume warning",
        "room ok",
        "volume ok",
        "volume: one file system failed",
        "volume: one file system ok",
        *(["room failed", "room ok"] * 2),
    ]
    lost = {feature.name: feature.lost for feature in FILE_SYSTEM_FEATURES}
    features = {"symbolic links": "failed", "hard links": "warning", "locks": "warning"}
    assert out[-3:] == [
        f"volume: {name} {state}: refused (Operation not permitted): {lost[name]}" for name, state in features.items()
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a test as other users")
def test_files_of_other_users_are_found_and_the_commands_of_the_cure_open_them() -> None:
    check = """
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.doctor.volume import check_access
from paddock.settings import Settings
(result,) = check_access(connect(Settings(volume=Path({root!r}))))
print(result.state, result.cure)
"""
    with tempfile.TemporaryDirectory(prefix="paddock-") as directory, User(61_003) as user:
        Path(directory).chmod(0o755)
        root = Path(directory, "models")
        (root / "inner").mkdir(parents=True)
        (root / "inner" / "file").write_text("")
        (root / "inner" / "file").chmod(0o600)
        run = check.format(root=str(root))
        state, _, cure = user.do(run).partition(" ")
        assert state == "failed"
        (root / "inner" / "file").chmod(0o644)
        assert user.do(run).startswith("warning ")
        for command in cure.split("`")[1::2]:
            os.system(command.replace("GROUP", str(GROUP)))
        assert user.do(run).startswith("ok")


def test_a_umask_that_closes_a_shared_volume_is_found(ready: Clients) -> None:
    ready.volume.root.chmod(0o2775)
    before = os.umask(0o022)
    try:
        (result,) = check_umask(ready)
        assert (result.state, "`umask 002`" in result.cure) == ("warning", True)
        os.umask(0o002)
        assert check_umask(ready)[0].ok
    finally:
        os.umask(before)


# The engine and the process


def test_the_engine_that_is_installed_passes(here: Clients) -> None:
    assert states(check_engine(here))["engine"] == "ok"
    assert states(check_llama_server(here)) == {"llama-server": "ok"}


def test_another_llama_server_that_does_not_start_is_found_and_unsetting_it_helps(
    here: Clients, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"
    missing = changed(here, llama_server=program)
    assert "unset it" in check_llama_server(missing)[0].cure
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    (result,) = check_llama_server(missing)
    assert (result.state, "unset it" in result.cure) == ("failed", True)


CPU, CUDA, CUDA_WITHOUT_GPU = (
    EngineBuild("1", "CPU : AVX2 = 1", uses_gpus=False),
    EngineBuild("1", "CUDA : ARCHS = 900 | CPU : AVX2 = 1", uses_gpus=True),
    EngineBuild("1", "CUDA : ARCHS = 900 | CPU : AVX2 = 1", uses_gpus=False),
)
ONE_GPU, NO_GPU = DetectedGpus((Gpu("NVIDIA H200", 2**37, 2**37),)), DetectedGpus((), "there is no driver")


@pytest.mark.parametrize(
    ("detected", "build", "state", "words"),
    [
        (NO_GPU, CPU, "ok", "none: there is no driver"),
        (ONE_GPU, CUDA, "ok", "NVIDIA H200 with 128.0 GiB"),
        (ONE_GPU, CPU, "warning", "built for the processor alone"),
        (ONE_GPU, CUDA_WITHOUT_GPU, "warning", "does not find NVIDIA H200"),
        (NO_GPU, CUDA_WITHOUT_GPU, "warning", "none can be used: there is no driver"),
    ],
    ids=["no GPU", "a GPU that is used", "another build", "an old driver", "no driver"],
)
def test_a_gpu_that_is_not_used_is_a_warning(
    detected: DetectedGpus, build: EngineBuild, state: str, words: str
) -> None:
    result = gpu_result(detected, build)
    assert (result.state, words in result.message, bool(result.cure)) == (state, True, state != "ok")


def test_a_low_limit_of_open_files_is_found_and_raising_it_helps(here: Clients) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        (result,) = check_open_files(here)
        assert (result.state, "`ulimit -n 1024`" in result.cure) == ("warning", True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        assert check_open_files(here)[0].ok
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_temporary_files_that_cannot_be_written_are_found(
    here: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nosuch"))  # what TMPDIR sets
    (result,) = check_temporary_files(here)
    assert (result.state, "set TMPDIR" in result.cure) == ("failed", True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert check_temporary_files(here)[0].ok


@pytest.mark.parametrize(
    ("settings", "package", "variable"),
    [
        ({"transfer": "xet"}, "hf_xet", "PADDOCK_TRANSFER"),
        ({"hub_transfer": True}, "hf_transfer", "HF_HUB_ENABLE_HF_TRANSFER"),
    ],
)
def test_a_backend_that_is_not_installed_is_found_and_unsetting_it_helps(
    here: Clients, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], package: str, variable: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (result,) = check_transfer(changed(here, **settings))
    assert (result.state, f"unset {variable}" in result.cure) == ("failed", True)
    assert check_transfer(here)[0].ok


def test_a_broken_catalog_is_found_with_its_lines(
    here: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_catalog_file(here)[0].message.startswith("none")
    path = tmp_path / "catalog.yaml"
    path.write_text("models:\n- modle: org/name\n")
    (result,) = check_catalog_file(changed(here, catalog=path))
    assert (result.state, "line 2, column 3: the entry has no `model`" in result.message) == ("failed", True)
    path.write_text("models:\n- model: org/name\n")
    assert check_catalog_file(changed(here, catalog=path))[0].message == f"{path}: 1 entry"


# The command


def test_the_command_prints_a_row_for_each_check_and_the_cures(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, paddock: Paddock
) -> None:
    monkeypatch.delenv("PADDOCK_CATALOG", raising=False)
    failed = paddock("doctor")
    assert failed.status == 1
    root = clients.volume.root
    assert f"volume: make it (`mkdir -p {root}`)" in failed.stdout
    assert "1 failed, 0 warnings" in failed.stdout
    root.mkdir()
    passed = paddock("doctor", "--json")
    assert (passed.status, passed.json["ok"]) == (0, True)
    assert set(passed.json["checks"][0]) == {"name", "ok", "needed", "message", "cure"}
    assert len(passed.json["checks"]) > len(CHECKS)
    assert all(check["ok"] or check["cure"] for check in passed.json["checks"])
