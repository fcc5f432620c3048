"""Fetches the styles and scripts that the pages of Data Docs load, with npm, into the cache where Paddock finds them.

`python -m infra.docs_assets`, once for each set of versions. Where there is no npm it says so, and the pages are
plain.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from paddock import settings
from paddock.validation.site import ASSETS_BY_FILE_NAME, ASSETS_DIRECTORY

_STAMP = ".ready"
_NPM_S = 120.0


def main(cache: Path | None = None) -> int:
    packages = sorted({f"{asset.package}@{asset.version}" for asset in ASSETS_BY_FILE_NAME.values()})
    home = (cache or settings.load().cache) / "paddock"
    if _read(home / ASSETS_DIRECTORY / _STAMP) == "\n".join(packages):
        return 0
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not here: Data Docs will be plain. Install it and run `.venv/bin/python -m infra.docs_assets`")
        return 0
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{ASSETS_DIRECTORY}.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=home) as work:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _read(home / ASSETS_DIRECTORY / _STAMP) == "\n".join(packages):  # another checkout was first
            return 0
        print("fetching the styles and scripts of Data Docs")
        quiet = ["--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
        # Scripts of the packages are not run.
        command = [npm, "install", "--prefix", work, "--ignore-scripts", *quiet, *packages]
        try:
            subprocess.run(command, check=True, timeout=_NPM_S)
        except (subprocess.SubprocessError, OSError) as error:  # set-up goes on without
            print(f"npm brought nothing ({type(error).__name__}): Data Docs will be plain", file=sys.stderr)
            return 0
        Path(work, "node_modules", _STAMP).write_text("\n".join(packages))
        shutil.rmtree(home / ASSETS_DIRECTORY, ignore_errors=True)
        Path(work, "node_modules").rename(home / ASSETS_DIRECTORY)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
