"""Build the engine's wheel: llama-cpp-python with the libraries and llama-server of one build of llama.cpp.

`python -m infra.build_engine DIRECTORY` writes the wheel and its source package into the directory. It runs with the
standard library alone. The source package, CMake, Ninja and what builds the package come from pip, by their hashes
(`locked.py`), the tools in a temporary environment; a C++ compiler must be there. CMAKE_ARGS adds build flags, such as
`-DGGML_CUDA=ON`.

llama.cpp is built from the copy in the source package, with shared libraries that find each other in their own
directory. They and llama-server go into the wheel's `llama_cpp/lib`, so that planning and serving run the same library
files. The package's own build cannot make both: it installs llama-server without a library that it needs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from infra import locked
from infra.locked import BUILD_TOOLS, CONSTRAINTS, ENGINE, ROOT

PORTABLE = "-DGGML_NATIVE=OFF"
"""Not -march=native: it uses AMX where the processor reports it, and some virtual machines fault on AMX at the first
decode."""
PROGRAM = "llama-server"

_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "LLAMA_BUILD_UI": "OFF",  # its build downloads files from other hosts
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "BUILD_SHARED_LIBS": "ON",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    # One file for each library: a wheel has no symbolic links, so a versioned name would be a second copy in memory.
    "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",
    # A machine that builds for CUDA may have no driver, whose library llama-server would otherwise not link without.
    "CMAKE_EXE_LINKER_FLAGS": "-Wl,--allow-shlib-undefined",
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: build_engine.py DIRECTORY", file=sys.stderr)
        return 3
    out = Path(arguments[0]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        print(build(Path(sys.executable), out, requested_flags(os.environ.get("CMAKE_ARGS"), installed=None)))
    except subprocess.CalledProcessError as error:
        print(f"build failed: {' '.join(map(str, error.cmd))} exited with status {error.returncode}", file=sys.stderr)
        return 1
    return 0


def build(python: Path, out: Path, flags: str) -> Path:
    """Write the source package and the wheel into `out`, and return the wheel."""
    locked.download(python, ENGINE, out)
    with tempfile.TemporaryDirectory(dir=out) as work:
        tools = install_tools(python, Path(work))
        path = os.pathsep.join([str(tools / "bin"), os.environ.get("PATH", os.defpath)])
        source = unpack(out, Path(work))
        binaries = compile_targets(source, flags, path, [PROGRAM, "mtmd"])
        library = source / "llama_cpp" / "lib"
        library.mkdir(exist_ok=True)
        for file in [*binaries.glob("*.so"), binaries / PROGRAM]:
            file.rename(library / file.name)
        (source / ".gitignore").unlink(missing_ok=True)  # the wheel's builder leaves out what it names: `lib/`
        environment = {"PATH": path, "CMAKE_ARGS": "-DLLAMA_BUILD=OFF"}
        wheel = [tools / "bin" / "python", "-m", "pip", "-qq", "wheel", "--no-deps", "--no-build-isolation"]
        run([*wheel, "--wheel-dir", out, source], environment=environment)
    return next(out.glob("*.whl"))


def unpack(packages: Path, work: Path) -> Path:
    """Unpack the source package that lies in `packages` into `work`, and return its directory."""
    with tarfile.open(next(packages.glob("*.tar.gz"))) as archive:
        archive.extractall(work, filter="data")
    return next(work.glob("*/vendor")).parent


def requested_flags(cmake_args: str | None, *, installed: str | None) -> str:
    """The engine's build flags: those of CMAKE_ARGS, and `PORTABLE` unless they name GGML_NATIVE."""
    if cmake_args is None and installed is not None:
        return installed
    flags = (cmake_args or "").split()
    return " ".join(flags if any("GGML_NATIVE" in flag for flag in flags) else [*flags, PORTABLE])


def pinned_version(package: str) -> str:
    match = re.search(rf"^{re.escape(package)}==(\S+)", CONSTRAINTS.read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"{CONSTRAINTS.name} does not pin {package}")
    return match[1]


def build_number(version: str) -> int:
    """The number that llama-server prints as its build: 3036 for version 0.3.36."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    return (major * 1000 + minor) * 1000 + patch


def run(command: list[object], *, environment: dict[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, env=os.environ | (environment or {}))


def install_tools(python: Path, work: Path) -> Path:
    """Install CMake, Ninja and the package's build tools into an environment below `work`, and return that."""
    tools = work / "tools"
    run([python, "-m", "venv", tools])
    locked.install(tools / "bin" / "python", only=BUILD_TOOLS)
    return tools


def compile_targets(package: Path, flags: str, path: str, targets: Sequence[str]) -> Path:
    """Compile targets of the llama.cpp in an unpacked source package, and return the directory of what was built.

    The libraries have the names of those in the wheel, and can take each other's place. `path` is a PATH with CMake.
    """
    source, build_directory = package / "vendor" / "llama.cpp", package / "build"
    version = pinned_version(ENGINE)
    named = {"LLAMA_BUILD_NUMBER": str(build_number(version)), "LLAMA_BUILD_COMMIT": f"{ENGINE}-{version}"}
    options = [f"-D{name}={value}" for name, value in {**_OPTIONS, **named}.items()]
    # The flags come last, so that they win.
    run(
        ["cmake", "-G", "Ninja", "-S", source, "-B", build_directory, *options, *flags.split()],
        environment={"PATH": path},
    )
    run(
        ["cmake", "--build", build_directory, "--parallel", os.cpu_count(), "--target", *targets],
        environment={"PATH": path, "NINJA_STATUS": "[%f/%t] "},
    )
    return build_directory / "bin"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
