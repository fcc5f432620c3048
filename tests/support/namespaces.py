"""Run a program in a mount namespace of its own, where file systems can be mounted on a volume."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def in_namespace(tmp_path: Path, mounts: str, program: str) -> str:
    """Run a program in a mount namespace of its own, after the shell command `mounts`, and return its stdout."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs `unshare -rm`: the package util-linux, and user namespaces allowed")
    script = tmp_path / "program.py"
    script.write_text(
        "import pathlib, sys\nfrom contextlib import suppress\nfrom paddock.errors import *\n"
        "from paddock.store.volume import Volume\nfrom tests.support.stores import *\n"
        "root = pathlib.Path(sys.argv[1])\n" + textwrap.dedent(program)
    )
    shell = f'set -e; root="$1"; {mounts}; exec "{sys.executable}" "$2" "$1"'
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", shell, "sh", str(tmp_path / "models"), str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
