"""Version, build and supported architectures of the installed engine.

The version is that of the package llama-cpp-python. Which architectures it supports is asked of the engine itself, in
a child process, since the table of the gguf package lags behind. Positive answers are cached in `<cache>/paddock/`, in
a file named by the version and by the library file's identity, so that another build starts with an empty cache.
Unknown names are never cached: a hostile model could otherwise fill the file with invented ones.

llama_cpp is not imported in this process.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from paddock import settings
from paddock.confinement.policy import Confinement
from paddock.engine import process
from paddock.engine.worker import CONFINEMENT
from paddock.errors import EngineTooOld
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import read_regular
from paddock.untrusted.json_text import parse_json

MINIMUM_ENGINE = "0.3.36"
_OLDEST_WITH_GGUF = "0.2.24"  # older ones cannot read current GGUF files: they get a message of their own
_PACKAGE = "llama-cpp-python"
_NAME = re.compile(r"[\x21-\x7e]{1,63}")
_QUERY_TIMEOUT_S = 60.0
_GPU_BACKENDS = ("CUDA", "ROCm", "Vulkan", "SYCL", "Metal", "MTL")
_MAX_CACHE_BYTES = 1024 * 1024
_NAMES_PER_QUERY = 512  # of at most 63 bytes each: the request fits in a pipe's buffer


def engine_version() -> str:
    """Return the version of the installed llama-cpp-python.

    Raises EngineTooOld if it is not installed, or older than MINIMUM_ENGINE.
    """
    try:
        return check_version(_installed_version())
    except PackageNotFoundError:
        raise EngineTooOld(f"{_PACKAGE} is not installed", cure=f"install {_PACKAGE}>={MINIMUM_ENGINE}") from None


@cache
def _installed_version() -> str:
    return version(_PACKAGE)  # parses the package's whole description


def engine_build() -> str:
    """Return 12 hex digits that tell apart two builds of one version (another backend, other compiler flags).

    They are a digest of the library files, so they do not depend on where those are installed.
    """
    record = distribution(_PACKAGE).read_text("RECORD") or ""
    libraries = sorted(line for line in record.splitlines() if line.startswith("llama_cpp/lib/"))
    return sha256("\n".join(libraries or [_identity()]).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """The installed build. `features` as llama.cpp lists them; `uses_gpus`: it finds a GPU that it can compute on;
    `is_for_gpus`: it was built for some."""

    version: str
    features: str
    uses_gpus: bool

    @property
    def is_for_gpus(self) -> bool:
        return self.uses_gpus or any(backend in self.features for backend in _GPU_BACKENDS)


def describe_build() -> EngineBuild:
    """Load the library in a process of its own, and ask it for its features. Raises EngineTooOld, EngineCrashed."""
    found = engine_version()
    library_directory()
    answer = process.run("describe", {}, timeout_s=_QUERY_TIMEOUT_S).result
    return EngineBuild(found, str(answer["features"])[:2000], answer["uses_gpus"] is True)


def describe_confinement() -> Confinement:
    """Start a process of the engine, and return what it was left with. Raises EngineTooOld, EngineCrashed."""
    return Confinement.from_json(process.run(CONFINEMENT, {}, timeout_s=_QUERY_TIMEOUT_S).result)


def check_version(found: str) -> str:
    """Return the version unchanged; raises EngineTooOld if it is below MINIMUM_ENGINE."""
    if _parts(found) >= _parts(MINIMUM_ENGINE):
        return found
    cure = f"install {_PACKAGE}>={MINIMUM_ENGINE}"
    if _parts(found) < _parts(_OLDEST_WITH_GGUF):
        raise EngineTooOld(
            f"{_PACKAGE} {found} is older than {_OLDEST_WITH_GGUF}, the first version that reads current GGUF",
            cure=cure,
        )
    raise EngineTooOld(
        f"{_PACKAGE} {found} is too old: it cannot estimate a model's memory before loading it", cure=cure
    )


def knows_architecture(name: str) -> bool:
    """Return whether the installed engine loads models whose `general.architecture` is `name`.

    Raises EngineTooOld, EngineCrashed.
    """
    return known_architectures([name])[name]


def known_architectures(names: Iterable[str]) -> dict[str, bool]:
    """Return `knows_architecture` of each name, with one engine process for up to 512 names."""
    requested = dict.fromkeys(names)
    cache_file = _cache_file()
    cached = _read(cache_file)
    missing = [name for name in requested if name not in cached and _NAME.fullmatch(name)]
    found: set[str] = set()
    for start in range(0, len(missing), _NAMES_PER_QUERY):
        batch = missing[start : start + _NAMES_PER_QUERY]
        answer = process.run("architectures", {"names": batch}, timeout_s=_QUERY_TIMEOUT_S).result["known"]
        found |= {name for name in batch if isinstance(answer, dict) and answer.get(name) is True}
    if found:
        _write(cache_file, cached | found)
    return {name: name in cached or name in found for name in requested}


def _parts(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.split("+", maxsplit=1)[0])[:3])


def library_directory() -> Path:
    """Return the directory of the engine's libraries and programs. Raises EngineTooOld if it has none."""
    return _library().parent


@cache
def _library() -> Path:
    spec = find_spec("llama_cpp")  # of a top-level package: does not import it
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(directory).glob("lib/*llama.*")):
            return library
    raise EngineTooOld(f"{_PACKAGE} has no native library", cure=f"install {_PACKAGE}>={MINIMUM_ENGINE} again")


def _identity() -> str:
    status = _library().stat()
    return f"{_library()}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _cache_file() -> Path:
    engine = engine_version()
    identity = sha256(_identity().encode()).hexdigest()[:12]
    return settings.load().cache / "paddock" / f"architectures-{engine}-{identity}.json"


def _read(path: Path) -> frozenset[str]:
    try:
        names = parse_json(read_regular(path, max_bytes=_MAX_CACHE_BYTES, follow=True), max_bytes=_MAX_CACHE_BYTES)
    except (OSError, UnusableContent):
        return frozenset()
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _write(path: Path, names: Iterable[str]) -> None:
    staged = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):  # without the cache every call only takes longer
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(sorted(names)))
        staged.replace(path)
