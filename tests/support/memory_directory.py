"""A directory in memory where possible: thousands of fsyncs would wait for a disk, and no power is lost in a test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")


@contextmanager
def memory_directory() -> Iterator[Path]:
    """An empty directory, which is removed when the block ends."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_directory() as directory:
        yield directory
