"""Read and write the state that a component keeps between starts: a JSON object in a file with mode 0600.

The file is replaced atomically. `CHECKOUT` is the root of this checkout.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]


def read_state(path: Path) -> dict[str, Any]:
    """The object; an empty one when it cannot be read, so that the component starts as if for the first time."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_state(path: Path, content: dict[str, Any]) -> None:
    staged = path.with_name(f"{path.name}.{os.getpid()}.new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(content, out, indent=1)
    staged.replace(path)


def private_directory(path: Path) -> Path:
    """`path`, created with mode 0700 if it does not exist. An existing directory is not changed."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
