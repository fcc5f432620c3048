"""Installs what the tests need of the system and no package registry has, from Debian, where this process may.

`python -m infra.system_packages` installs what is not there yet, as root where apt-get is. Elsewhere it says what to
install, and goes on: a test whose part is not there fails, and says the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from infra import docs_assets

PROGRAMS = {"chromium": ("chromium", "chromium-browser"), "npm": ("npm",), "curl": ("curl",)}
"""Debian's package, and the names of its program on systems that have it."""
_APT_S = 900.0


def main() -> int:
    wanted = [package for package, programs in PROGRAMS.items() if not any(map(shutil.which, programs))]
    if not wanted:
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"Some tests need {', '.join(wanted)}: apt-get install {' '.join(wanted)}, as root", file=sys.stderr)
        return 0
    print(f"installing {', '.join(wanted)} from the system's packages", flush=True)
    try:
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *wanted)
    except (subprocess.SubprocessError, OSError) as error:  # the tests that need them say so again
        print(f"apt-get brought nothing ({type(error).__name__}): {', '.join(wanted)}", file=sys.stderr)
    return docs_assets.main()


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(
        ["apt-get", "-qq", *arguments], check=True, timeout=_APT_S, env=environment, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    sys.exit(main())
