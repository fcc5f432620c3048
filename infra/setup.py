"""Set up a checkout: create a virtual environment with pinned packages, and build the engine once for all checkouts.

Runs with the standard library alone, before anything is installed: `python3 -m infra.setup .venv`. It returns at once
when nothing changed since the last run. Packages are installed by their hashes (`locked.py`). The engine is built from
its source package (`build_engine.py`), since a wheel built elsewhere may fault on this processor. Wheel and source
package are kept in `${XDG_CACHE_HOME:-~/.cache}/paddock/engine`, keyed by version and flags.

CMAKE_ARGS adds build flags (`-DGGML_CUDA=ON` for an NVIDIA GPU); changed flags replace the installed engine. If
CMAKE_ARGS is not set, the installed engine stays; if it is set and empty, the engine is built without added flags.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from infra import build_engine, locked
from infra.build_engine import PROGRAM, pinned_version, requested_flags, run
from infra.locked import CONSTRAINTS, ENGINE, LOCKED, ROOT

MINIMUM = (3, 11)
INPUTS = (
    ROOT / "pyproject.toml",
    CONSTRAINTS,
    LOCKED,
    Path(__file__).resolve(),
    Path(build_engine.__file__).resolve(),
    Path(locked.__file__).resolve(),
    ROOT / "paddock" / "validation" / "site.py",
)

# Files in the virtual environment: the digest of the inputs, written last, and the flags of the installed engine.
READY, FLAGS = ".ready", ".engine-with-server"


def main(arguments: list[str]) -> int:
    if sys.version_info < MINIMUM:
        print(
            f"Paddock needs Python {'.'.join(map(str, MINIMUM))} or later; this is {sys.version.split()[0]}",
            file=sys.stderr,
        )
        return 1
    target = Path(arguments[0] if arguments else ".venv")
    flags = requested_flags(os.environ.get("CMAKE_ARGS"), installed=installed_flags(target))
    if is_ready(target, flags):
        return 0
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        print("Paddock builds llama.cpp and needs a C++ compiler: install g++ or clang++", file=sys.stderr)
        return 1
    try:
        set_up(target, flags)
    except KeyboardInterrupt:
        print("\nset-up was interrupted: run it again to continue", file=sys.stderr)
        return 130
    except subprocess.CalledProcessError as error:
        print(f"set-up failed: {' '.join(map(str, error.cmd))} exited with status {error.returncode}", file=sys.stderr)
        return 1
    return 0


def set_up(target: Path, flags: str) -> None:
    python = target / "bin" / "python"
    (target / READY).unlink(missing_ok=True)
    if not has_pip(python):
        print(f"creating {target}")
        venv.create(target, with_pip=True, clear=(target / "pyvenv.cfg").exists())  # replaces an incomplete one
    engine = engine_wheel(python, flags)
    pip = [python, "-m", "pip", "install", "-qq", "--no-deps"]
    if installed_flags(target) != flags:  # forced, since pip takes another build of the same version for the same
        print(f"installing {engine.name} with {flags}")
        (target / FLAGS).unlink(missing_ok=True)
        run([*pip, "--force-reinstall", engine])
        (target / FLAGS).write_text(flags)
    print("installing the packages of requirements.txt")
    locked.install(python, without=[ENGINE])
    run([*pip, "--no-build-isolation", "--editable", ROOT])
    run([python, "-m", "infra.docs_assets"])
    (target / READY).write_text(digest(flags))


def is_ready(target: Path, flags: str) -> bool:
    return (target / "bin" / "python").exists() and read(target / READY) == digest(flags)


def digest(flags: str) -> str:
    """The digest of everything that determines what is installed."""
    return hashlib.sha256(b"\0".join([flags.encode(), *(path.read_bytes() for path in INPUTS)])).hexdigest()


def has_pip(python: Path) -> bool:
    """Whether the environment is complete: an interrupted creation leaves an interpreter without pip."""
    try:
        return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def installed_flags(target: Path) -> str | None:
    return read(target / FLAGS)


def read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def engine_key(version: str, flags: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", f"{ENGINE}-{version}-server{flags}")


def engine_wheel(python: Path, flags: str) -> Path:
    """The engine's wheel from the cache, built first if it is missing.

    A file lock keeps two checkouts from building the same wheel twice.
    """
    version = pinned_version(ENGINE)
    key = engine_key(version, flags)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddock" / "engine"
    home = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheel = next(iter(home.glob("*.whl")), None)
        if wheel is None:
            print(f"building {ENGINE} {version} and {PROGRAM} with {flags} (once, several minutes)", flush=True)
            with tempfile.TemporaryDirectory(dir=cache) as work:
                out = Path(work, "out")
                out.mkdir()
                build_engine.build(python, out, flags)
                shutil.rmtree(home, ignore_errors=True)
                out.rename(home)
            wheel = next(home.glob("*.whl"))
    return wheel


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
