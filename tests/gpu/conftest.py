"""Fixtures for a machine with a GPU: full-size models."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddock.model.hardware import Machine, this_machine
from tests.support.full_size import write_full_size
from tests.support.published import PUBLISHED_MODELS
from tests.support.serving import promoted_model

__all__ = ["promoted_model"]


@pytest.fixture(scope="session")
def machine() -> Machine:
    found = this_machine()
    assert found.gpus, found.why_no_gpu
    return found


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama 3.1 8B in Q4_K, 4.2 GiB."""
    return _written("Llama 3.1 8B", tmp_path_factory)


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3 0.6B in Q4_K, whose embedding is its output matrix, too."""
    return _written("Qwen3 0.6B", tmp_path_factory)


def _written(name: str, factory: pytest.TempPathFactory) -> Path:
    model = next(model for model in PUBLISHED_MODELS if model.name == name)
    return write_full_size(model, factory.mktemp("full") / f"{model.architecture}-Q4_K.gguf")
