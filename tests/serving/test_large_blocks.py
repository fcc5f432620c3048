"""Memory of large buffers goes back to the operating system when they are freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import psutil
from paddock.serving.large_blocks import return_large_blocks

if sys.argv[1] == "returns":
    return_large_blocks()
before = psutil.Process().memory_info().rss
bytearray(30 * 2**20)  # from here on the C library would keep blocks up to that size
held = [(bytearray(b"a") * (4 * 2**20), bytearray(100_000)) for _ in range(20)]
small = [pair[1] for pair in held]
del held
print(psutil.Process().memory_info().rss - before >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's behaviour: run it on Linux")
def test_freed_buffers_between_small_blocks_are_given_back() -> None:
    kept = {
        name: int(subprocess.run([sys.executable, "-c", PROGRAM, name], check=True, capture_output=True).stdout)
        for name in ("returns", "keeps")
    }
    assert kept["returns"] < 8
    assert kept["keeps"] > 40, "the test's own pattern does not keep memory any more"
