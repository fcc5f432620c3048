"""Download the stylesheets and scripts of Data Docs with npm, into the cache where Paddock looks for them.

`python -m infra.docs_assets` downloads each set of versions once. Without npm it prints a notice, and the pages are
shown without styles.
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
        print(
            "npm is not installed: Data Docs will be plain. Install it and run `.venv/bin/python -m infra.docs_assets`"
        )
        return 0
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{ASSETS_DIRECTORY}.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=home) as work:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _read(home / ASSETS_DIRECTORY / _STAMP) == "\n".join(packages):  # another checkout has done it meanwhile
            return 0
        print("downloading the stylesheets and scripts of Data Docs")
        quiet = ["--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
        # --ignore-scripts: install scripts of the packages must not run.
        command = [npm, "install", "--prefix", work, "--ignore-scripts", *quiet, *packages]
        try:
            subprocess.run(command, check=True, timeout=_NPM_S)
        except (subprocess.SubprocessError, OSError) as error:  # set-up continues without them
            print(f"npm install failed ({type(error).__name__}): Data Docs will be plain", file=sys.stderr)
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
