"""Write shell scripts that replace programs of the system."""

from __future__ import annotations

from pathlib import Path


def write_script(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
