"""Which directories and devices an engine may use: those of its build, and never the user's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from paddock.confinement import places
from paddock.confinement.landlock import DEVICE


@pytest.mark.parametrize(
    ("library", "expected"),
    [("libggml-cpu.so", False), ("libggml-cuda.so", True), ("libggml-hip.so", True), ("libggml-vulkan.so", True)],
)
def test_a_build_for_gpus_is_known_by_its_libraries(tmp_path: Path, library: str, expected: bool) -> None:
    (tmp_path / library).touch()
    assert places.is_for_gpus(str(tmp_path)) == expected


def test_an_engine_for_gpus_may_use_their_devices_and_drivers_files_and_another_one_may_not(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm", "kfd", "dxg", "sda", "mem", "kmsg"):
        (tmp_path / name).touch()
    for name in ("dri/renderD128", "nvidia-caps/nvidia-cap1", "shm/other"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    rules = places.library_rules(private=[], gpu=True, devices=str(tmp_path))
    devices = {rule.path.removeprefix(f"{tmp_path}/") for rule in rules if rule.rights == DEVICE}
    expected = {"nvidia0", "nvidiactl", "nvidia-uvm", "kfd", "dxg", "dri", "nvidia-caps"}
    assert devices == expected | {"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"}
    assert {"/sys", "/proc/driver"} <= {rule.path for rule in rules}
    without = places.library_rules(private=[], gpu=False, devices=str(tmp_path))
    assert not {rule.path for rule in without} & {*(f"{tmp_path}/{name}" for name in expected), "/sys", "/proc/driver"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make device nodes")
def test_the_groups_of_gpus_are_those_that_alone_may_write_to_their_devices(tmp_path: Path) -> None:
    (tmp_path / "dri").mkdir()
    for name, mode, group in (
        ("dri/renderD128", 0o660, 105),
        ("kfd", 0o660, 44),
        ("nvidia0", 0o666, 7),
        ("sda", 0o660, 6),
    ):
        try:
            os.mknod(tmp_path / name, mode | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("this container permits no device nodes: run it with the capability MKNOD")
        os.chown(tmp_path / name, 0, group)
        (tmp_path / name).chmod(mode)
    assert places.gpu_groups(str(tmp_path)) == [44, 105]


def test_no_directory_that_holds_the_users_files_is_readable_by_an_engine(tmp_path: Path) -> None:
    home, volume = tmp_path / "people" / "one", tmp_path / "models"
    (tmp_path / "libraries").mkdir()
    (tmp_path / "to_home").symlink_to(home.parent)
    given = [str(path) for path in (tmp_path, home, home.parent, volume, tmp_path / "to_home", tmp_path / "libraries")]
    private = [str(home), str(volume)]
    kept = list(places.libraries_only([*given, "/", "/tmp", "relative", ""], private=private))
    assert kept == [str(tmp_path / "libraries")]
    named = places.library_rules(private=private, library_path=":".join([*given, ""]))
    assert [rule.path for rule in named if rule.path in given] == [str(tmp_path / "libraries")]


def test_a_script_may_use_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "llama-server"
    script.parent.mkdir()
    script.write_text("#!/opt/tools/bin/python -E\n")
    paths = {rule.path for rule in places.program_rules(script, private=[])}
    assert {str(script), "/opt/tools/bin/python", "/opt/tools/bin", "/opt/tools/lib"} <= paths
    script.write_bytes(b"\x7fELF")
    assert {rule.path for rule in places.program_rules(script, private=[])} == {str(script), str(script.parent)}
