"""`paddock inspect` reports bad files quickly and in little memory, each file in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.hostile import BROKEN
from tests.support.not_gguf import NOT_GGUF

PEAK_BYTES = 256 * 1024 * 1024
CPU_S = 2.0
"""Processor time, which does not depend on how busy the machine is."""

LAUNCHER = """\
import json, os, resource, subprocess, sys
for path in sys.stdin.read().splitlines():
    child = subprocess.Popen([sys.executable, "-m", "paddock", "inspect", path, "--json"], stdout=subprocess.PIPE)
    out = child.stdout.read().decode()
    _, status, used = os.wait4(child.pid, 0)
    took = used.ru_utime + used.ru_stime
    print(json.dumps([path, os.waitstatus_to_exitcode(status), out, took, used.ru_maxrss * 1024]), flush=True)
"""
"""A small process starts the others, because the peak memory that the kernel reports for a child includes its parent's.
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [75, pytest.param(1, marks=pytest.mark.torture)])
def test_a_bad_file_is_reported_quickly_and_in_little_memory(tmp_path: Path, step: int) -> None:
    files = [(name, build) for name, (_, build) in BROKEN.items()]
    files += [(name, partial(bytes, data)) for name, (data, _) in NOT_GGUF.items()]
    assert len(files) >= 200
    paths = []
    for number, (_, build) in list(enumerate(files))[::step]:
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(build())
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER], input="\n".join(paths), capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(paths)
    for path, status, out, took, peak in told:
        name, _ = files[int(Path(path).stem)]
        assert status == 2, name
        assert json.loads(out)["verdict"] == "reject", name
        assert out.count("\n") == 1, name
        assert took < CPU_S, name
        assert peak < PEAK_BYTES, name
    slowest, largest = max(one[3] for one in told), max(one[4] for one in told)
    print(
        f"{len(told)} bad files: the slowest took {slowest:.2f} s of the processor, the largest {largest / 1e6:.0f} MB"
    )
