"""Fixtures of a local Hub that serves in a thread, and the environment for its clients.

tests/conftest.py imports the fixtures:

    def test_something(hub: HubService, tmp_path: Path) -> None:
        commit = hub.repository("org/name").commit({"model.gguf": b"…", "config.json": b"{}"})
        environment = hub_environment(hub, tmp_path / "home")
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.hub import HubService, LocalHub, serve_hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubService]:
    """A new, empty Hub on free ports."""
    with serve_hub(LocalHub(tmp_path / "hub")) as service:
        yield service


def hub_environment(service: HubService, home: Path, *, token: str | None = None) -> dict[str, str]:
    """This environment, with HF_ENDPOINT set to `service`, the cache in `home`, and only the given token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "XDG_"))}
    settings = {
        "HF_ENDPOINT": service.address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1",
    }
    return {**kept, **settings, **({"HF_TOKEN": token} if token is not None else {})}


@pytest.fixture(scope="session")
def demo_cache() -> Path:
    """A cache of the demonstration's models that stays between test runs: 0.5 GB, created in about ten seconds."""
    return Path(__file__).parents[2] / ".cache" / "demo"
