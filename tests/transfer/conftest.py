from pathlib import Path

import pytest


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "partial"
