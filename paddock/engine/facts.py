"""What the installed engine is and knows, asked without importing it here.

The engine's version is that of the package llama-cpp-python. Which architectures it knows only the engine can say:
gguf's table lags behind. The answer is kept in `<cache>/paddock/`, under a name made of the version and of the
library file's identity, so that another build is asked again. Only what is known is kept: names that a stranger makes
up cannot fill the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from paddock import settings
from paddock.engine import process
from paddock.errors import EngineTooOld

MINIMUM_ENGINE = "0.3.36"
_OLDEST_NAMED = "0.2.24"  # what the project promises for GGUF at all
_PACKAGE = "llama-cpp-python"
_NAME = re.compile(r"[\x21-\x7e]{1,63}")
_ASK_TIMEOUT_S = 60.0
_ASK_AT_ONCE = 512  # of at most 63 bytes: a request that a pipe holds


def engine_version() -> str:
    """The version of the installed llama-cpp-python.

    Raises EngineTooOld when there is none, or one below MINIMUM_ENGINE.
    """
    try:
        return check_version(version(_PACKAGE))
    except PackageNotFoundError:
        raise EngineTooOld(f"{_PACKAGE} is not installed", cure=f"install {_PACKAGE}>={MINIMUM_ENGINE}") from None


def engine_build() -> str:
    """What tells two builds of one version apart (another backend, other flags), as 12 hex digits: the same for the
    same library files, wherever they are installed."""
    record = distribution(_PACKAGE).read_text("RECORD") or ""
    libraries = sorted(line for line in record.splitlines() if line.startswith("llama_cpp/lib/"))
    return sha256("\n".join(libraries or [_identity()]).encode()).hexdigest()[:12]


def check_version(found: str) -> str:
    """Return the version unchanged, or raise EngineTooOld."""
    if _parts(found) >= _parts(MINIMUM_ENGINE):
        return found
    cure = f"install {_PACKAGE}>={MINIMUM_ENGINE}"
    if _parts(found) < _parts(_OLDEST_NAMED):
        raise EngineTooOld(
            f"{_PACKAGE} {found} is older than {_OLDEST_NAMED}, the first with the GGUF of today", cure=cure
        )
    raise EngineTooOld(
        f"{_PACKAGE} {found} is too old: it cannot tell what a model takes before it is loaded", cure=cure
    )


def knows_architecture(name: str) -> bool:
    """Whether the installed engine loads models whose `general.architecture` is `name`.

    Raises EngineTooOld, EngineCrashed.
    """
    return known_architectures([name])[name]


def known_architectures(names: Iterable[str]) -> dict[str, bool]:
    """As `knows_architecture`, for many at the cost of one question."""
    wanted = dict.fromkeys(names)
    kept = _kept_file()
    known = _read(kept)
    ask = [name for name in wanted if name not in known and _NAME.fullmatch(name)]
    news: set[str] = set()
    for start in range(0, len(ask), _ASK_AT_ONCE):
        part = ask[start : start + _ASK_AT_ONCE]
        said = process.run("architectures", {"names": part}, timeout_s=_ASK_TIMEOUT_S).result["known"]
        news |= {name for name in part if isinstance(said, dict) and said.get(name) is True}
    if news:
        _write(kept, known | news)
    return {name: name in known or name in news for name in wanted}


def _parts(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.split("+", maxsplit=1)[0])[:3])


@cache
def _library() -> Path:
    spec = find_spec("llama_cpp")  # of a top-level package: finds, and does not import
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(place).glob("lib/*llama.*")):
            return library
    raise EngineTooOld(f"{_PACKAGE} has no native library", cure=f"install {_PACKAGE}>={MINIMUM_ENGINE} again")


def _identity() -> str:
    status = _library().stat()
    return f"{_library()}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _kept_file() -> Path:
    found = engine_version()
    identity = sha256(_identity().encode()).hexdigest()[:12]
    return settings.load().cache / "paddock" / f"architectures-{found}-{identity}.json"


def _read(path: Path) -> frozenset[str]:
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return frozenset()
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _write(path: Path, names: Iterable[str]) -> None:
    staged = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):  # a cache that cannot be written costs time, and nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(sorted(names)))
        staged.replace(path)
