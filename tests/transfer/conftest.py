from pathlib import Path

import pytest

from tests.support.hub import hub

__all__ = ["hub"]


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "partial"
