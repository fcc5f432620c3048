"""The seed of randomized tests. It is printed, so that PADDOCK_TEST_SEED can reproduce a failure."""

from __future__ import annotations

import os
import secrets

import pytest


@pytest.fixture
def seed() -> int:
    """A new seed in each run, unless PADDOCK_TEST_SEED is set. pytest shows the output of a failed test."""
    number = int(os.environ.get("PADDOCK_TEST_SEED") or secrets.randbelow(2**32))
    print(f"PADDOCK_TEST_SEED={number}")
    return number
