"""Install the programs that the tests need and that pip cannot install, from Debian's packages.

`python -m infra.system_packages` installs what is missing, if it runs as root and apt-get exists. Otherwise it prints
what to install and succeeds: a test that misses a program fails, and prints the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from infra import docs_assets

PROGRAMS = {
    "chromium": ("chromium", "chromium-browser"),
    "npm": ("npm",),
    "curl": ("curl",),
    "systemd": ("systemd-analyze",),
    "redis-server": ("redis-server",),
}
"""Debian package, and the names that its program has on different systems."""
_APT_S = 900.0


def main() -> int:
    missing = [package for package, programs in PROGRAMS.items() if not any(map(shutil.which, programs))]
    if not missing:
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"Some tests need {', '.join(missing)}: apt-get install {' '.join(missing)}, as root", file=sys.stderr)
        return 0
    print(f"installing {', '.join(missing)} with apt-get", flush=True)
    try:
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *missing)
    except (subprocess.SubprocessError, OSError) as error:  # the tests that need them say what is missing
        print(f"apt-get failed ({type(error).__name__}): {', '.join(missing)} not installed", file=sys.stderr)
    return docs_assets.main()


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(
        ["apt-get", "-qq", *arguments], check=True, timeout=_APT_S, env=environment, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    sys.exit(main())
