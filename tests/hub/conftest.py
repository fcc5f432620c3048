"""A client of the local Hub, and an isolated stored token."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from infra.local.hub import HubService
from paddock.hub import Hub
from paddock.settings import Secret, Settings

TOKEN, STRANGER = "hf_canaryOfTheOwner", "hf_canaryOfAStranger"


@pytest.fixture(autouse=True)
def stored_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Path at which `hf auth login` would store a token: empty, and never the one of the user who runs the tests."""
    path = tmp_path / "stored-token"
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(path))
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return path


def client(service: HubService | str, *, token: str | None = None, offline: bool = False) -> Hub:
    address = service if isinstance(service, str) else service.address
    secret = Secret(token) if token else None
    return Hub(Settings(hub_endpoint=address, hub_token=secret, hub_offline=offline))
