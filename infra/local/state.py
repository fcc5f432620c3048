"""What a part keeps between two starts: one JSON object in a file that only its owner reads, replaced atomically.

It says where the checkout is, too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]


def read_state(path: Path) -> dict[str, Any]:
    """The object; an empty one when none can be read, and the part starts as if for the first time."""
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
    """`path`, made with mode 0700 when it is not there. One that is there is left as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
