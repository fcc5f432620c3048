"""llama.cpp's own benchmark, built once from the engine's source package, and run on the very libraries that the
installed engine consists of: same version, same build, same flags.

It is kept in the engine's cache beside the wheel, keyed by version and flags. Only the program and what is its alone
are kept: libllama and libggml are those of the installed package, found through LD_LIBRARY_PATH.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from infra import setup

_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",  # what scikit-build takes for a wheel
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAVA_BUILD=OFF",
)
_ITS_OWN = ("llama-bench", "libllama-bench-impl.so*", "libllama-common.so*")


def measure(arguments: Mapping[str, object]) -> list[list[float]]:
    """Tokens a second of each repetition of each test, as the program's options (`-p`, `-n`, …) order them."""
    program = _built()
    spec = find_spec("llama_cpp")
    engine = Path((spec.submodule_search_locations or [""])[0] if spec else "", "lib")
    command = [str(program), "-o", "json", *(str(word) for pair in arguments.items() for word in pair)]
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{engine}:{program.parent}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    return [test["samples_ts"] for test in json.loads(done.stdout)]


def _built() -> Path:
    """The program, built first where it is not there. Two checkouts that build at once build once."""
    flags = setup.installed_flags(Path(sys.prefix)) or setup.PORTABLE
    home = setup.engine_wheel(Path(sys.executable), flags).parent  # where the source package is, too
    target = home / "llama-bench"
    with (home.parent / f"{home.name}.llama-bench.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            if shutil.which("cmake") is None:
                raise SystemExit("llama-bench is built with cmake: install it")
            print(f"building llama-bench with {flags} (once, several minutes)", flush=True)
            with tempfile.TemporaryDirectory(dir=home.parent) as work:
                _build(next(home.glob("*.tar.gz")), Path(work), flags)
                Path(work, "out").rename(target)
    return target / "llama-bench"


def _build(package: Path, work: Path, flags: str) -> None:
    """Leave the program in `work/out`. The package's own CMakeLists.txt is built, as it is for the wheel."""
    with tarfile.open(package) as archive:
        archive.extractall(work, filter="data")
    (source,) = (path.parent for path in work.glob("*/CMakeLists.txt"))
    setup.run(["cmake", "-S", source, "-B", work / "build", *_OPTIONS, *flags.split()])
    setup.run(["cmake", "--build", work / "build", "--target", "llama-bench", "--parallel", os.cpu_count() or 1])
    (work / "out").mkdir()
    for pattern in _ITS_OWN:
        for path in sorted((work / "build" / "bin").glob(pattern)):
            shutil.copy2(path, work / "out", follow_symlinks=False)
