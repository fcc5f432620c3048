"""The seed of a test that draws by chance. It is printed, and PADDOCK_TEST_SEED gives a failed test the same again."""

from __future__ import annotations

import os
import secrets

import pytest


@pytest.fixture
def seed() -> int:
    """Another one in each run, unless PADDOCK_TEST_SEED is set. Pytest shows what is printed where a test fails."""
    number = int(os.environ.get("PADDOCK_TEST_SEED") or secrets.randbelow(2**32))
    print(f"PADDOCK_TEST_SEED={number}")
    return number
