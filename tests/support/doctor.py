"""Clients for the checks of `paddock doctor`, and their results by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.doctor import CheckResult
from paddock.settings import Settings

SECRET = "hf_canaryCANARY"


@pytest.fixture
def here(tmp_path: Path) -> Clients:
    """Clients of a volume that is not there, and of no Hub."""
    return connect(Settings(volume=tmp_path / "models", hub_endpoint="http://127.0.0.1:9"))


@pytest.fixture
def ready(here: Clients) -> Clients:
    """Clients with a volume that is there."""
    here.volume.root.mkdir()
    return here


def changed(clients: Clients, **settings: Any) -> Clients:
    return connect(replace(clients.settings, **settings))


def only(results: Sequence[CheckResult], name: str) -> CheckResult:
    return next(result for result in results if result.name == name)


def states(results: Sequence[CheckResult]) -> dict[str, str]:
    return {result.name: result.state for result in results}
