from pathlib import Path

import pytest

from tests.support.seed import seed

__all__ = ["seed"]


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "partial"
