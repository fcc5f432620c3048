"""Corrupt stored files without going through the volume."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path, offset: int) -> None:
    """Flip the lowest bit of the byte at `offset`; the file keeps its mode."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as data:
        data.seek(offset)
        byte = data.read(1)[0]
        data.seek(offset)
        data.write(bytes([byte ^ 1]))
    path.chmod(mode)
